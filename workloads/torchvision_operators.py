"""torchvision beside a torch that its compiled operators are not made for.

A torchvision linked to CUDA finds no CUDA libraries beside a torch without CUDA; it then goes on
without its operators, but fails as it describes two of them (`operator torchvision::nms does not
exist`), and diffusers and transformers with it, though none of this project needs them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[object] = []
"""What a torch library declares goes when the library does."""


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; sees the first import of torchvision coming."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()
        return None


def prepare() -> None:
    """Has this process's first import of torchvision succeed; costs nothing until then."""
    waiting = any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not waiting:
        sys.meta_path.insert(0, _BeforeTorchvision())


def _declare_missing() -> None:
    """Declares the two operators, unless torchvision's own load: then it does nothing more."""
    found = PathFinder.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(Path(found.origin).with_name("_C.so"))  # type: ignore[no-untyped-call]
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _declared.append(library)
