"""What is told of a file from outside that was not loaded.

Weights are read as tensors alone: from safetensors, or by torch with `weights_only`. Code that a
model brings with it is never run.
"""

from pickle import UnpicklingError

NOT_LOADED = (OSError, ValueError, RuntimeError, ImportError, UnpicklingError)
"""What the libraries raise when they refuse a file or cannot read it."""


def describe(error: BaseException) -> str:
    """The reason in a line; the libraries' own words go on to say how to load it all the same."""
    text = " ".join(str(error).split())
    if isinstance(error, UnpicklingError) or "pickle" in text:
        return "it is no file of tensors alone, and a pickle of anything else could run code"
    if "custom code" in text:
        return "it brings code of its own, which is not run"
    if "safetensors" in text:
        return f"{text[:200]} (weights are read from safetensors alone, as a pickle could run code)"
    return text[:200]
