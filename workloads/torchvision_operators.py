"""Import hook that lets torchvision import next to a torch without its CUDA libraries.

torchvision's wheel on PyPI is linked against CUDA. Next to a CPU build of torch (for example 2.13.0+cpu) its
compiled operators do not load: torchvision 0.28.0 continues without them, but then fails as it registers
a fake kernel for one of them (`operator torchvision::nms does not exist`), and the imports of diffusers
0.42.1 and transformers 5.23.0 fail with it. This project needs none of these operators, so their schemas
are declared when they are missing. Next to a matching torch, the hook loads torchvision's own operators
and declares nothing.
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
"""The torch library with the declared schemas; they disappear when it is garbage collected."""


class _TorchvisionImportHook(MetaPathFinder):
    """Finder that finds no module; it runs just before the first import of torchvision."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing()
        return None


def install_import_hook() -> None:
    """Make the first import of torchvision in this process succeed; import nothing until then."""
    installed = any(isinstance(finder, _TorchvisionImportHook) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not installed:
        sys.meta_path.insert(0, _TorchvisionImportHook())


def _declare_missing() -> None:
    """Declare the two operators, unless torchvision's own can be loaded."""
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
