"""What an objective needs of each prompt besides its conditioning.

The data stage makes it once and keeps it in the prompts' shards; a step finds it in `Batch.columns`.
Importing this costs nothing (no torch).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import snapshot_download

from workloads.backbones.text_encoder_files import files_digest
from workloads.miniature import clip_folder
from workloads.settings.train import TrainSettings

Maker = Callable[[Sequence[str]], Any]
"""N prompts -> a float tensor (N, W), on the CPU."""


class Column(Protocol):
    """A frozen dataclass, so that it can be compared and sent to where it is made."""

    @property
    def name(self) -> str:
        """Of the shards' column and of the item of `Batch.columns`."""

    def digest(self) -> str:
        """Of all that the content depends on, prompts aside.

        Raises:
            ValueError: something that it needs is not on this machine.
        """

    def open(self, source: str, device: str) -> Maker:
        """What makes it, with weights; `source` is the backbone's."""


@dataclass(frozen=True)
class ClipTexts:
    """What a CLIP model makes of the prompts; W is the width of its space."""

    model: str
    name: str = "clip_texts"

    def digest(self) -> str:
        return clip_digest(self.model)

    def open(self, source: str, device: str) -> Maker:
        from workloads.objectives.clip_model import ClipText  # torch and transformers

        return ClipText(self.model, device).encode


def columns_of(train: TrainSettings) -> tuple[Column, ...]:
    """What a training needs."""
    return () if train.clip is None else (ClipTexts(train.clip.model),)


def clip_digest(source: str) -> str:
    """The same of a CLIP model: a folder, a hub id that is in the local cache, or `miniature/clip`.

    Raises:
        ValueError: it is not on this machine.
    """
    folder = Path(clip_folder(source))
    try:
        if not folder.is_dir():
            folder = Path(snapshot_download(source, local_files_only=True))
        return files_digest(folder, ["."])
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"train.clip: no CLIP model {source!r} on this machine; fetch it with `hf download`: {reason}"
        ) from None
