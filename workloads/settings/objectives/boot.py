"""Settings of the objective BOOT (arXiv 2306.05544)."""

from dataclasses import dataclass, field
from typing import Literal

from workloads.settings.objectives.guided import GuidedSettings
from workloads.settings.train import COST
from workloads.settings.validation import check_positive, check_ranges


@dataclass(frozen=True)
class BootSettings(GuidedSettings):
    """A training by BOOT; `timestep_range` is the part of the trajectory that the student learns."""

    objective: Literal["boot"] = field(default="boot", metadata=COST)
    # Marked, as `guidance_input` needs another one than the default.
    guidance_interval: tuple[float, float] = field(default=(3.0, 3.0), metadata=COST)
    """[low, high] of the teacher's guidance scale. A student that does not read it learns about its mean."""
    step_size: float = 0.04
    """Step of the teacher along its trajectory, as a fraction of the schedule (the paper's delta)."""
    boundary_weight: float = 1.0
    """Weight of the loss at the start of the trajectory, where t = T (the paper's beta)."""
    trajectory_weighting: Literal["step", "picture"] = "step"
    """Weight of the bootstrap loss at a point. step: 1 / delta^2; picture: 1 / (1 - r)^2, by which the
    teacher's pictures are matched (BOOT as restated in OFTSR's code)."""
    clock_from: float | None = None
    """Timestep that the student's network sees at the beginning of the trajectory, as a fraction of the
    schedule; at its end it is the start timestep. 1: the teacher's own, where the student, which starts as
    the teacher, predicts what the teacher does without guidance. None: 1, but 0 for an epsilon prediction,
    whose conversion to x_0 amplifies errors there (measured in sweeps/README.md)."""
    solver: Literal["euler", "midpoint"] = "euler"
    """Step of the teacher along the trajectory; midpoint asks it twice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must be above 0 and below 1, not {self.step_size}")
        check_positive(self, ("boundary_weight",))
        if self.clock_from is not None:
            check_ranges(self, {"clock_from": (0, 1)})
        if self.student_steps != 1:
            raise ValueError(f"student_steps must be 1 for the objective boot, not {self.student_steps}")

    def _check_guidance_input(self) -> None:
        if self.guidance_input == "student":
            raise ValueError("guidance_input: student is for the objective pgsb, but objective is boot")
        super()._check_guidance_input()
