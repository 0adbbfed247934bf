"""The formats that a student can be exported in, the families that have each, and the folder of each."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from workloads.backbones.families import Family, family_of
from workloads.export import kohya, single_file
from workloads.export.card import CARD, file_card, folder_card, lora_card, read_card
from workloads.export.file_metadata import lora_metadata, single_file_metadata
from workloads.export.lora import Lora, student_lora
from workloads.export.sampling import Sampling, sampling_of
from workloads.students.origin import ADAPTERS, Origin
from workloads.students.origin import FILE as ORIGIN
from workloads.students.scale_range import load_scales

DIFFUSERS, LORA, KOHYA, SINGLE_FILE = FORMATS = ("diffusers", "lora", "kohya", "single-file")
WHY_NOT = {
    LORA: "diffusers has no load_lora_weights for it",
    KOHYA: "diffusers has no reader of kohya's names for it, with which they could be checked",
    SINGLE_FILE: "the original layout is that of Stable Diffusion 1.5, 2.1 and SDXL",
}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
SCHEDULER = "scheduler"


@dataclass(frozen=True)
class Export:
    """What to write, and its names."""

    format: str
    """One of FORMATS, which the student's family has: see `check_format`."""
    title: str
    """Name of the student."""
    place: str
    """Folder or hub id where the result will be, for the card."""
    base: str = ""
    """Folder or hub id of the base model, to open it; for a LoRA alone."""
    origin: Origin | None = None
    """What the student was made from; for a LoRA alone."""
    rank: int | None = None
    """Largest rank of a LoRA's layer; None for the adapters' own, else for a default."""

    @property
    def file(self) -> str:
        """Name of the file of weights in the result's folder."""
        return ADAPTERS if self.format == LORA else f"{self.title}.safetensors"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    sampling: Sampling
    file: Path | None = None
    """The file of weights; None for a folder with many."""
    lora: Lora | None = None
    """The LoRA, for formats that are one."""


def formats_of(family: Family) -> tuple[str, ...]:
    """Return the formats that students of `family` can be exported in."""
    can = {
        DIFFUSERS: True,
        LORA: family.loads_lora,
        KOHYA: family.pipeline in kohya.FAMILIES,
        SINGLE_FILE: family.pipeline in single_file.FAMILIES,
    }
    return tuple(name for name in FORMATS if can[name])


def check_format(student: Path, name: str) -> None:
    """Check that the student in the folder `student` can be exported in the format `name`.

    Raises:
        ValueError: its family has no such format, or the format cannot hold its guidance embedding.
    """
    family = family_of(str(student))
    if name != DIFFUSERS and load_scales(student) is not None:
        raise ValueError(
            f"the student reads its guidance scale, which format {name} cannot hold: choose {DIFFUSERS}"
        )
    if name not in formats_of(family):
        raise ValueError(
            f"a {family.pipeline} has no format {name} ({WHY_NOT[name]}): choose "
            f"{' or '.join(formats_of(family))}"
        )


def export_student(student: Path, export: Export, folder: Path) -> Exported:
    """Write the student in the folder `student` into the new `folder`, with its card and pictures.

    Raises:
        ValueError: the student or its base model cannot be exported so; see `student_lora` and `single_file`.
    """
    if export.format == DIFFUSERS:
        shutil.copytree(student, folder)
        _write_card(folder, folder_card(read_card(student), export.place))
        return Exported(folder, sampling_of(student))
    if export.format == SINGLE_FILE:
        return _single_file(student, export, folder)
    return _lora(student, export, folder)


def _single_file(student: Path, export: Export, folder: Path) -> Exported:
    """Write a checkpoint, and beside it the configs with which diffusers opens it without a download."""
    family, sampling = family_of(str(student)), sampling_of(student)
    tensors = single_file.single_file(student)
    shutil.copytree(student, folder, ignore=shutil.ignore_patterns(*WEIGHTS))
    metadata = single_file_metadata(student, family, sampling, export.title)
    save_file(tensors, folder / export.file, metadata)
    _write_card(folder, file_card(read_card(student), export.place, export.file, family.pipeline, sampling))
    return Exported(folder, sampling, folder / export.file)


def _lora(student: Path, export: Export, folder: Path) -> Exported:
    """Write a LoRA, and beside it the scheduler that it is to be sampled with."""
    assert export.origin is not None
    family, sampling = family_of(str(student)), sampling_of(student)
    lora = student_lora(student, export.base, export.origin, export.rank)
    tensors: dict[str, Tensor] = lora.tensors
    if export.format == KOHYA:
        tensors = kohya.kohya_names(lora, family, _network_config(student, family))
    shutil.copytree(student, folder, ignore=_keep_documents)
    metadata = lora_metadata(student, family, sampling, export.title, lora, export.origin)
    save_file(tensors, folder / export.file, metadata)
    card = lora_card(read_card(student), export.place, export.file, export.origin.base, sampling, lora)
    _write_card(folder, card)
    return Exported(folder, sampling, folder / export.file, lora)


def _keep_documents(folder: str, names: list[str]) -> set[str]:
    """Return the entries of a student's folder that a LoRA does not need; for `copytree`."""
    path = Path(folder)
    if path.name == SCHEDULER:
        return set()
    kept = {SCHEDULER, ORIGIN}
    return {
        name
        for name in names
        if name not in kept and ((path / name).is_dir() or name.endswith((".json", ".safetensors")))
    }


def _network_config(student: Path, family: Family) -> dict[str, Any]:
    path = student / family.network / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _write_card(folder: Path, card: str) -> None:
    (folder / CARD).write_text(card, encoding="utf-8")
