"""A pickle that creates a folder when it is loaded, to test that loaders refuse pickles."""

import os
import pickle
from pathlib import Path

import torch


class Planted:
    """An object whose unpickling creates the folder `mark`."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._mark,)


def plant(path: Path, mark: Path, form: str = "torch") -> None:
    """Write such a pickle to `path`.

    Args:
        form: "torch" for torch's current format, "legacy" for its format before 1.6, "pickle" for a bare
            pickle.
    """
    if form == "pickle":
        path.write_bytes(pickle.dumps(Planted(mark)))
    else:
        torch.save({"state_dict": Planted(mark)}, path, _use_new_zipfile_serialization=form == "torch")
