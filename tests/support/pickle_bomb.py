"""A pickle that writes a file when it is loaded: loaders must refuse it, and the file not appear."""

import os
import pickle
from pathlib import Path

import torch


class Planted:
    """Unpickling one makes a folder at `mark`."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._mark,)


def plant(path: Path, mark: Path, form: str = "torch") -> None:
    """Writes such a pickle as `torch` saves it, as it did long ago ("legacy"), or bare ("pickle")."""
    if form == "pickle":
        path.write_bytes(pickle.dumps(Planted(mark)))
    else:
        torch.save({"state_dict": Planted(mark)}, path, _use_new_zipfile_serialization=form == "torch")
