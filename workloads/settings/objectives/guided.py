"""Settings of the objectives that ask the teacher for guided predictions during the training."""

from dataclasses import dataclass, field
from typing import Any, Literal

from workloads.settings.train import ADDED_LATER, COST, TrainSettings

Distribution = Literal["uniform", "logit_normal"]
"""Distribution of timesteps."""
MAX_GUIDANCE_SCALE = 1000
"""Largest guidance scale, and largest NASA strength, of an interval."""


@dataclass(frozen=True)
class GuidedSettings(TrainSettings):
    """The guidance scale of the teacher, and the part of the schedule on which it is asked."""

    guidance_interval: tuple[float, float] = (0.5, 4.0)
    """[low, high] of the uniform guidance scale; low = high: a fixed scale; 1: no guidance."""
    guidance_per: Literal["sample", "batch"] = "sample"
    """sample: each sample draws its own scale; batch: one scale per batch. The paper leaves this open."""
    guidance_input: bool | Literal["student"] = field(default=False, metadata={**ADDED_LATER, **COST})
    """True if the student, and a fake score, read the guidance scale, which is then chosen when pictures are
    drawn: one training for all scales of the interval, drawn log-uniformly. student: the student alone reads
    it, a control of PG-SB."""
    timestep_range: tuple[float, float] = (0.02, 0.981)
    """Range of t for the student's loss, as fractions of the schedule: [20, 981) of 1000."""
    norm_rescaled_guidance: bool = field(default=False, metadata=ADDED_LATER)
    """True if each token of a guided prediction is scaled back to the norm of the conditional one, as the
    pipeline of Qwen-Image does. The result is not linear in the scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval [{low}, {high}]: low is above high")
        check_interval(self, "guidance_interval")
        first, last = self.timestep_range
        if not 0 <= first < last <= 1:
            raise ValueError(f"timestep_range [{first}, {last}]: needs 0 <= first < last <= 1")
        if self.guidance_input:
            self._check_guidance_input()

    def _check_guidance_input(self) -> None:
        low, high = self.guidance_interval
        if not 0 < low < high:
            raise ValueError(f"guidance_interval [{low}, {high}]: guidance_input needs 0 < low < high")
        if self.guidance_per == "batch":
            raise ValueError("guidance_input draws a scale for each sample: leave guidance_per out")
        if self.student_lora is not None:
            raise ValueError("guidance_input needs a student with weights of its own: leave student_lora out")

    @property
    def teacher_scales(self) -> tuple[float, float]:
        return self.guidance_interval

    @property
    def read_scales(self) -> tuple[float, float] | None:
        return self.guidance_interval if self.guidance_input else None


def check_interval(settings: Any, name: str) -> None:
    """Check that an interval of scales or strengths, if it is set, is one.

    Raises:
        ValueError: It is not; the message begins with its name.
    """
    low, high = getattr(settings, name) or (0, 0)
    if not 0 <= low <= high <= MAX_GUIDANCE_SCALE:
        raise ValueError(f"{name} [{low}, {high}]: needs 0 <= low <= high <= {MAX_GUIDANCE_SCALE}")
