"""A teacher as a sweep names it: a pipeline, and the LoRAs that are merged into it. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lora:
    """A LoRA of a teacher, and how much of it is added to the teacher's weights."""

    path: str
    """File, folder or hub id: `owner/name[@revision][:file]`."""
    weight: float = 1.0


@dataclass(frozen=True)
class TeacherSource:
    """A pipeline with its LoRAs; teachers that are equal share prompts and reference."""

    source: str
    """Folder or hub id of the pipeline."""
    loras: tuple[Lora, ...] = ()
