"""What tests of GGUF files share."""

import pytest

WHY = "needs the extra llama-cpp, which compiles llama.cpp"


def need_llama_cpp() -> None:
    """Skip a module where llama.cpp is not installed."""
    pytest.importorskip("gguf", reason=WHY)
    pytest.importorskip("llama_cpp", reason=WHY)
