"""Columns: per-prompt inputs of an objective besides the conditioning.

    columns_of(train) -> Column.open -> (N, W) tensors in the prompt shards -> Batch.columns

The data stage encodes each column once for all prompts. `Column.digest` is part of the digest that
names the shards, so a changed encoder makes new shards. Importing this module needs no torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.loras.files import files_digests
from workloads.backbones.prompts.text_encoder_files import files_digest
from workloads.miniature import clip_folder, features_file
from workloads.settings.pairs import PairSettings
from workloads.settings.train import TrainSettings

NOISE_SEED, TEACHER_LATENTS = "noise_seed", "teacher_latents"

ColumnEncoder = Callable[[Sequence[str], int], Any]
"""A function from N prompts, and the number of the first one's row, to a tensor (N, W) on the CPU.

Integers are stored as they are, floats in half precision."""


class Column(Protocol):
    """Recipe of a column; a frozen dataclass, so that it can be compared and sent to other processes."""

    costly: ClassVar[bool]
    """True if a row takes much longer than to encode its text, so that more processes share the shards."""

    @property
    def name(self) -> str:
        """Name of the column in the shards, and its key in `Batch.columns`."""

    def digest(self) -> str:
        """Return a digest of everything that the content depends on besides the prompts.

        Raises:
            ValueError: a file that it needs is not on this machine.
        """

    def open(self, teacher: TeacherSource, device: str) -> ColumnEncoder:
        """Load the encoder with its weights on `device`."""


@dataclass(frozen=True)
class ClipTextColumn:
    """Text embeddings of a CLIP model; W is the width of its embedding space."""

    costly: ClassVar[bool] = False

    model: str
    name: str = "clip_texts"

    def digest(self) -> str:
        return clip_digest(self.model)

    def open(self, teacher: TeacherSource, device: str) -> ColumnEncoder:
        from workloads.objectives.clip_model import ClipTextEncoder  # torch and transformers

        encoder = ClipTextEncoder(self.model, device)
        return lambda prompts, first: encoder.encode(prompts)


@dataclass(frozen=True)
class NoiseSeeds:
    """The seed of the noise of each teacher pair, (N, 1), as integers: see `pairs`."""

    costly: ClassVar[bool] = False

    pairs: PairSettings
    name: str = NOISE_SEED

    def digest(self) -> str:
        return f"{NOISE_SEED} {self.pairs.seed}"

    def open(self, teacher: TeacherSource, device: str) -> ColumnEncoder:
        from workloads.objectives.pairs import row_seeds  # torch

        return lambda prompts, first: row_seeds(self.pairs, first, len(prompts)).unsqueeze(1)


@dataclass(frozen=True)
class TeacherLatents:
    """The latents that the teacher draws from the noise of each pair, (N, C * H * H): see `pairs`."""

    costly: ClassVar[bool] = True

    teacher: TeacherSource
    pairs: PairSettings
    name: str = TEACHER_LATENTS

    def digest(self) -> str:
        """Return a digest of the pairs' settings, the teacher's name and the content of its LoRAs."""
        loras = [[*files_digests(lora), lora.weight] for lora in self.teacher.loras]
        return f"{TEACHER_LATENTS} {self.teacher.source} {loras} {sorted(asdict(self.pairs).items())}"

    def open(self, teacher: TeacherSource, device: str) -> ColumnEncoder:
        """Load the teacher's pipeline."""
        from workloads.objectives.pairs import PairMaker  # torch and diffusers

        return PairMaker(self.pairs, teacher, device)


def columns_of(train: TrainSettings, teacher: TeacherSource) -> tuple[Column, ...]:
    """Return the columns that a training needs, given its teacher."""
    columns: list[Column] = [] if train.clip_model is None else [ClipTextColumn(train.clip_model)]
    if train.teacher_pairs is not None:
        columns += [NoiseSeeds(train.teacher_pairs), TeacherLatents(teacher, train.teacher_pairs)]
    return tuple(columns)


def features_channels(source: str) -> int:
    """Return the channels of the latents that the features of a distance are for.

    Args:
        source: A safetensors file of `LatentFeatures`, or `miniature/latents`.

    Raises:
        ValueError: The file is missing or holds other weights.
    """
    try:
        with safe_open(features_file(source), "np") as file:
            return int(file.get_slice("taps.0.0.weight").get_shape()[1])
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"train.features: {source!r} is no safetensors file of LatentFeatures: {reason}"
        ) from None


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
