"""Columns: per-prompt inputs of an objective besides the conditioning.

    columns_of(train) -> Column.open -> (N, W) tensors in the prompt shards -> Batch.columns

The data stage encodes each column once for all prompts. `Column.digest` is part of the digest that
names the shards, so a changed encoder makes new shards. Importing this module needs no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import snapshot_download

from workloads.backbones.prompts.text_encoder_files import files_digest
from workloads.miniature import clip_folder
from workloads.settings.train import TrainSettings

ColumnEncoder = Callable[[Sequence[str]], Any]
"""A function from N prompts to a float tensor (N, W) on the CPU."""


class Column(Protocol):
    """Recipe of a column; a frozen dataclass, so that it can be compared and sent to other processes."""

    @property
    def name(self) -> str:
        """Name of the column in the shards, and its key in `Batch.columns`."""

    def digest(self) -> str:
        """Return a digest of everything that the content depends on besides the prompts.

        Raises:
            ValueError: a file that it needs is not on this machine.
        """

    def open(self, source: str, device: str) -> ColumnEncoder:
        """Load the encoder with its weights on `device`; `source` is the backbone's folder or hub id."""


@dataclass(frozen=True)
class ClipTextColumn:
    """Text embeddings of a CLIP model; W is the width of its embedding space."""

    model: str
    name: str = "clip_texts"

    def digest(self) -> str:
        return clip_digest(self.model)

    def open(self, source: str, device: str) -> ColumnEncoder:
        from workloads.objectives.clip_model import ClipTextEncoder  # torch and transformers

        return ClipTextEncoder(self.model, device).encode


def columns_of(train: TrainSettings) -> tuple[Column, ...]:
    """Return the columns that a training needs."""
    return () if train.clip_model is None else (ClipTextColumn(train.clip_model),)


def clip_digest(source: str) -> str:
    """Return a digest of all files of a CLIP model.

    Args:
        source: folder, id on the hub that is in the local cache, or `miniature/clip`.

    Raises:
        ValueError: the model is not on this machine.
    """
    folder = Path(clip_folder(source))
    try:
        if not folder.is_dir():
            folder = Path(snapshot_download(source, local_files_only=True))
        return files_digest(folder, ["."])
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"train.clip: CLIP model {source!r} is not on this machine; fetch it with `hf download`: {reason}"
        ) from None
