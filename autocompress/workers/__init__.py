"""Where candidates are measured: sessions and pools."""
