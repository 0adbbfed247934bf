"""Settings of the objective PG-SB (SNOOPI, arXiv 2412.02687)."""

from dataclasses import dataclass, field
from typing import Literal

from workloads.settings.objectives.guided import Distribution, GuidedSettings, check_interval
from workloads.settings.objectives.terms import ClipLossSettings
from workloads.settings.train import ADDED_LATER, COST, LoraSettings
from workloads.settings.validation import check_positive, check_ranges


@dataclass(frozen=True)
class PGSBSettings(GuidedSettings):
    """A training by PG-SB; defaults as published (SwiftBrush's code; SNOOPI v3, table 6)."""

    objective: Literal["pgsb"] = field(default="pgsb", metadata={**ADDED_LATER, **COST})
    guided: Literal["both", "teacher", "fake_score"] = field(default="both", metadata=COST)
    """Scores that are guided; both is best in the ablation of SNOOPI v1, table 2."""
    fake_score_interval: tuple[float, float] | None = field(default=None, metadata=ADDED_LATER)
    """[low, high] of a separate scale for the fake score; None: it shares the teacher's scale."""
    weighting: Literal["sigma_squared", "uniform", "dmd"] = "sigma_squared"
    """Weight w(t) of the student's gradient. dmd: the gradient is a difference of images, not of noise,
    and is normalised to the same magnitude at every timestep (DMD, arXiv 2311.18828)."""
    timesteps: Distribution = field(default="uniform", metadata=ADDED_LATER)
    """Distribution of t for the student's loss, over `timestep_range`."""
    fake_score_timesteps: Distribution | None = field(default=None, metadata=ADDED_LATER)
    """Distribution of t for the fake score's loss, over the whole schedule. None: uniform (SwiftBrush's
    code), but logit_normal for flow matching, as in today's tools (RTDMD, Model-Optimizer)."""
    null_rate: float = 0.1
    """Fraction of samples on which the fake score trains without a prompt, which guiding it needs."""
    nasa_interval: tuple[float, float] | None = field(default=None, metadata=COST)
    """[low, high] of the strength for NASA-T (SNOOPI v3, sec. 5.3, [0, 1] there); None: no NASA-T.

    The student trains with NASA away from a negative prompt, at a strength drawn for each step, and
    the teacher is guided against that prompt."""
    fake_score_updates: int = field(default=1, metadata=COST)
    """Updates of the fake score per update of the student."""
    fake_score_learning_rate: float = 1e-3
    """Learning rate of the fake score's adapter (AdamW)."""
    lora: LoraSettings = field(default=LoraSettings(), metadata=COST)
    """The fake score's adapter."""
    clip: ClipLossSettings | None = field(default=None, metadata={**ADDED_LATER, **COST})
    """CLIP loss added to the student's loss (SwiftBrush v2 and SNOOPI); None: no CLIP loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("fake_score_learning_rate",))
        for name in ("fake_score_interval", "nasa_interval"):
            check_interval(self, name)
        check_ranges(self, {"null_rate": (0, 1), "fake_score_updates": (1, 1000)})
        if self.fake_score_interval is not None and self.guided != "both":
            raise ValueError(f"fake_score_interval needs guided: both, but guided is {self.guided}")
        if self.nasa_interval is not None and self.guided == "fake_score":
            raise ValueError("nasa_interval guides the teacher: guided must be both or teacher")

    def _check_guidance_input(self) -> None:
        super()._check_guidance_input()
        if self.guided == "fake_score":
            raise ValueError("guidance_input is the teacher's scale: guided must be teacher or both")
        if self.fake_score_interval is not None:
            raise ValueError("fake_score_interval and guidance_input exclude each other: leave one out")

    @property
    def trains_with_negatives(self) -> bool:
        return self.nasa_interval is not None

    @property
    def clip_model(self) -> str | None:
        return None if self.clip is None else self.clip.model
