"""What a safetensors file says it holds, read without its weights; tells a file that is cut short.

The format: 8 bytes of length (little endian), so many bytes of JSON, then the tensors without gaps.
"""

import json
from pathlib import Path
from typing import Any

LARGEST_HEADER = 100_000_000
"""The format's own limit."""

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(path: Path) -> Shapes:
    """Names and shapes of the tensors in a file.

    Raises:
        ValueError: it is no safetensors file, or not a whole one.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{path} is cut short, or is no safetensors file: fetch it again")
        text = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(text)
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
        shapes = {name: tuple(int(side) for side in tensor["shape"]) for name, tensor in tensors.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{path} has a spoilt header, or is no safetensors file: fetch it again") from None
    if 8 + length + end != size:
        raise ValueError(
            f"{path} is cut short: it has {size:,} bytes where its header says {8 + length + end:,}; "
            f"fetch it again"
        )
    return shapes
