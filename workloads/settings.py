"""The settings of an objective and of its networks, with their published defaults.

Importing this costs nothing (no torch), so a sweep file can be checked before anything starts.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

STRICT: dict[str, Any] = {"extra": "forbid"}
"""For validators that read it: an unknown key is an error."""


@dataclass(frozen=True)
class LoraSettings:
    """The fake score's adapter; defaults as published (SwiftBrush v2 and SNOOPI)."""

    __pydantic_config__ = STRICT

    rank: int = 64
    """Inner width r."""
    alpha: float = 128.0
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("to_q", "to_v")
    """Names of the layers that are adapted, matched at the end; [all]: every one."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ValueError("a LoRA needs rank >= 1 and at least one target layer")


@dataclass(frozen=True)
class AttentionGuidanceSettings:
    """How a student's cross-attention is steered away from a negative prompt."""

    __pydantic_config__ = STRICT

    kind: Literal["none", "nasa", "nag"] = "none"
    """nasa: Z+ - strength Z- (SNOOPI); nag: Z+ + strength (Z+ - Z-), clipped and blended."""
    strength: float = 0.0
    """NASA's alpha, NAG's phi; 0 is the plain student."""
    clip: float = 2.5
    """nag: largest growth of a token's L1 norm (tau); 0 turns clipping off."""
    blend: float = 0.375
    """nag: share of the guided features in what goes on; 1: nothing else."""

    def __post_init__(self) -> None:
        if self.strength < 0 or self.clip < 0 or not 0 < self.blend <= 1:
            raise ValueError("strength and clip must not be negative, blend must be above 0, at most 1")
        if self.kind != "nag" and (self.clip, self.blend) != (2.5, 0.375):
            raise ValueError(f"clip and blend are settings of nag, not of {self.kind}")
        if self.kind == "none" and self.strength:
            raise ValueError("a strength needs a kind: nasa or nag")

    @property
    def label(self) -> str:
        """For people: the kernel, without its strength."""
        if self.kind != "nag" or (self.clip, self.blend) == (2.5, 0.375):
            return self.kind
        if self.clip == 0 and self.blend == 1:
            return "extrapolation"
        return f"nag(clip {self.clip:g}, blend {self.blend:g})"


@dataclass(frozen=True)
class PGSBSettings:
    """The objective PG-SB; defaults as published (SwiftBrush's code, SNOOPI table 6)."""

    __pydantic_config__ = STRICT

    guidance_interval: tuple[float, float] = (0.5, 4.0)
    """[low, high] of the guidance scale; equal for a fixed scale; 1 is no guidance."""
    guidance_per: Literal["sample", "batch"] = "sample"
    """Whether each sample of a batch draws its own scale (the paper does not say)."""
    guided: Literal["both", "teacher", "fake_score"] = "both"
    """Which of the two scores are guided; SNOOPI's ablation found both to be best."""
    weighting: Literal["sigma_squared", "uniform"] = "sigma_squared"
    """w(t) of the student's gradient."""
    timestep_range: tuple[float, float] = (0.02, 0.981)
    """Share of the schedule in which the student is judged: t in [20, 981) of 1000."""
    null_rate: float = 0.1
    """Share of samples that the fake score sees without prompt, so that it can be guided."""
    nasa_interval: tuple[float, float] | None = None
    """NASA-T: the student trains with NASA away from a negative prompt, at a strength drawn for
    each step from [low, high], the teacher guided against that prompt; [0, 1] in SNOOPI v3."""
    fake_score_updates: int = 1
    """Updates of the fake score for each of the student."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The fake score's adapter."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval [{low}, {high}]: low is above high")
        first, last = self.timestep_range
        if not 0 <= first < last <= 1:
            raise ValueError(f"timestep_range [{first}, {last}]: needs 0 <= first < last <= 1")
        if not 0 <= self.null_rate <= 1:
            raise ValueError(f"null_rate {self.null_rate} is not a share between 0 and 1")
        if self.nasa_interval is not None and not 0 <= self.nasa_interval[0] <= self.nasa_interval[1]:
            raise ValueError(f"nasa_interval {list(self.nasa_interval)}: needs 0 <= low <= high")
        if self.nasa_interval is not None and self.guided == "fake_score":
            raise ValueError("nasa_interval guides the teacher against negatives: guided must include it")
        if self.fake_score_updates < 1:
            raise ValueError("fake_score_updates must be at least 1")


@dataclass(frozen=True)
class TrainSettings(PGSBSettings):
    """Everything that makes one training what it is: a change to any of it is another training."""

    steps: int = 50_000
    """Updates of the student."""
    batch_size: int = 64
    """Samples of a step over all workers."""
    seed: int = 0
    """Of noise, timesteps, scales and the order of prompts."""
    learning_rate: float = 1e-6
    """Of the student (AdamW)."""
    fake_score_learning_rate: float = 1e-3
    """Of the fake score's adapter (AdamW)."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Of both optimisers."""
    weight_decay: float = 0.0
    """Of both optimisers."""
    gradient_clip: float = 1.0
    """Largest norm of a gradient, for both networks; 0 turns clipping off."""
    ema_decay: float = 0.999
    """Of the student's averaged weights, which are what is evaluated and saved."""
    start_from: str | None = None
    """Pipeline whose network the student starts from; none: the teacher itself."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of all networks; auto: bf16 on GPUs, fp32 on CPUs."""
    collapse_ratio: float = 0.05
    """Collapsed: the student's pictures vary this many times less (or, inverted, more) over a
    batch than they did at its first step. Non-finite losses are a collapse too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("steps", "batch_size", "learning_rate", "fake_score_learning_rate")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("ema_decay", "collapse_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if self.gradient_clip < 0 or self.weight_decay < 0 or self.seed < 0:
            raise ValueError("gradient_clip, weight_decay and seed must not be negative")
