"""Compression search for open language models, proven on the machine that runs them."""

__version__ = "0.1.0"
