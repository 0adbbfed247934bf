"""Settings of the objective BOOT (arXiv 2306.05544)."""

from dataclasses import dataclass, field
from typing import Literal

from workloads.settings.objectives.guided import GuidedSettings
from workloads.settings.train import COST
from workloads.settings.validation import check_positive


@dataclass(frozen=True)
class BootSettings(GuidedSettings):
    """A training by BOOT; `timestep_range` is the part of the trajectory that the student learns."""

    objective: Literal["boot"] = field(default="boot", metadata=COST)
    step_size: float = 0.04
    """Step of the teacher along its trajectory, as a fraction of the schedule (the paper's delta)."""
    boundary_weight: float = 1.0
    """Weight of the loss at the start of the trajectory, where t = T (the paper's beta)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must be above 0 and below 1, not {self.step_size}")
        check_positive(self, ("boundary_weight",))
        if self.student_steps != 1:
            raise ValueError(f"student_steps must be 1 for the objective boot, not {self.student_steps}")

    def _check_guidance_input(self) -> None:
        super()._check_guidance_input()
        if self.guidance_input == "student":
            raise ValueError("guidance_input: student is for the objective pgsb, but objective is boot")
