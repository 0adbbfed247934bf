"""One-line reasons for files from outside that could not be loaded.

Weights are only read as tensors: from safetensors, or by torch with `weights_only`. Code that comes
with a model is never run.
"""

from pickle import UnpicklingError

NOT_LOADED = (OSError, ValueError, RuntimeError, ImportError, UnpicklingError)
"""Exceptions that the libraries raise when they refuse a file or cannot read it."""


def one_line(error: BaseException) -> str:
    """Return the message of `error` in one line of at most 200 characters, or the name of its class."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def describe(error: BaseException) -> str:
    """Return the reason why a file was not loaded, in one line.

    The libraries' own messages also explain how to load the file in spite of the risk.
    """
    text = " ".join(str(error).split())
    if text.startswith("backbone "):  # a refusal of this package, which says what to do
        return text
    if isinstance(error, UnpicklingError) or "pickle" in text:
        return "it holds more than tensors, and a pickle of other objects could run code"
    if "custom code" in text:
        return "it contains custom code, which is never run"
    if "safetensors" in text:
        return f"{text[:200]} (weights are read from safetensors alone, as a pickle could run code)"
    return one_line(error)
