"""The settings of an objective and of its networks, with their published defaults.

Importing this costs nothing (no torch), so a sweep file can be checked before anything starts.
"""

import math
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal

from workloads.settings.objectives import BootSettings, ClipLossSettings
from workloads.settings.validation import STRICT, check_positive, check_ranges

LATER: dict[str, bool] = {"later": True}
"""Marks a setting that came after the first trials were made: see `TrainSettings.identity`."""
ScoreBatch = Literal["all", "role", "prediction"]
MOST_GUIDANCE = 1000
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000_000),
    "batch_size": (1, 65_536),
    "seed": (0, 2**63 - 1),
    "weight_decay": (0, math.inf),
    "gradient_clip": (0, math.inf),
}
"""Generous: a value outside is a slip of the pen, which would be met hours later."""
COMPUTED = (
    "objective",
    "batch_size",
    "lora",
    "student_lora",
    "guided",
    "nasa_interval",
    "fake_score_updates",
    "clip",
)
"""Settings that change the shapes or the number of what a step computes."""


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
        check_ranges(self, {"rank": (1, 4096)})
        check_positive(self, ("alpha",))
        if not self.targets or not all(target.strip() for target in self.targets):
            raise ValueError("targets must name layers, as in [to_q, to_v], or be [all]")


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
        check_ranges(self, {"strength": (0, 1000), "clip": (0, math.inf)})
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend must be above 0 and at most 1, not {self.blend}")
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
    fake_score_interval: tuple[float, float] | None = field(default=None, metadata=LATER)
    """[low, high] of the fake score's own scale, drawn apart from the teacher's; none: the same scale."""
    weighting: Literal["sigma_squared", "uniform", "dmd"] = "sigma_squared"
    """w(t) of the student's gradient; dmd: of pictures, not of noise, and of one size whatever the
    timestep (DMD, arXiv 2311.18828)."""
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
    clip: ClipLossSettings | None = field(default=None, metadata=LATER)
    """A CLIP loss beside it (SwiftBrush v2; SNOOPI has it too); none: there is none."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval [{low}, {high}]: low is above high")
        for name in ("guidance_interval", "fake_score_interval", "nasa_interval"):
            low, high = getattr(self, name) or (0, 0)
            if not 0 <= low <= high <= MOST_GUIDANCE:
                raise ValueError(f"{name} [{low}, {high}]: needs 0 <= low <= high <= {MOST_GUIDANCE}")
        first, last = self.timestep_range
        if not 0 <= first < last <= 1:
            raise ValueError(f"timestep_range [{first}, {last}]: needs 0 <= first < last <= 1")
        check_ranges(self, {"null_rate": (0, 1), "fake_score_updates": (1, 1000)})
        if self.fake_score_interval is not None and self.guided != "both":
            raise ValueError(f"fake_score_interval is of two guided scores, but guided is {self.guided}")
        if self.nasa_interval is not None and self.guided == "fake_score":
            raise ValueError("nasa_interval guides the teacher against negatives: guided must include it")


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed: faster, or in less memory. What it computes differs by rounding alone."""

    __pydantic_config__ = STRICT

    activation_checkpointing: bool = False
    """Activations of the network's blocks are computed again in the backward pass, not kept. With
    `compile`, by the compiler and of the compiled blocks alone: less is spared, but at less cost."""
    score_batch: ScoreBatch = "prediction"
    """How many of a sample's four score predictions are one call of the network: all (adapters
    chosen row by row, by a mask), those of one role, or each alone (least memory)."""
    compile: bool = False
    """The networks' transformer blocks by torch.compile; minutes before the first step."""


NOT_OF_BOOT = ("guided", "weighting", "null_rate", "fake_score_updates", "lora", "fake_score_learning_rate")
"""Settings of PG-SB that trainings of several objectives may share, so that boot does not refuse them."""


@dataclass(frozen=True)
class TrainSettings(PGSBSettings):
    """Everything that makes one training what it is: a change to any of it is another training."""

    objective: Literal["pgsb", "boot"] = field(default="pgsb", metadata=LATER)
    """What a step minimises. A sweep file may also say swiftbrush or swiftbrush_v2: see
    `objectives.settings.NAMED`."""
    boot: BootSettings = field(default=BootSettings(), metadata=LATER)
    """Of the objective boot."""
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
    student_lora: LoraSettings | None = field(default=None, metadata=LATER)
    """An adapter that the student trains in place of its weights (SwiftBrush v2); none: all of it."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of all networks; auto: bf16 on GPUs, fp32 on CPUs."""
    collapse_ratio: float = 0.05
    """Collapsed: the student's pictures vary this many times less (or, inverted, more) over a
    batch than they did at its first step. Non-finite losses are a collapse too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, ("learning_rate", "fake_score_learning_rate"))
        check_ranges(self, RANGES)
        for name in ("ema_decay", "collapse_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas {list(self.adam_betas)}: each must be at least 0 and below 1")
        if self.start_from is not None and not self.start_from.strip():
            raise ValueError("start_from is empty: name a pipeline, or leave it out")
        self._check_objective()

    def _check_objective(self) -> None:
        if self.objective == "pgsb" and self.boot != BootSettings():
            raise ValueError("boot has settings of the objective boot, but objective is pgsb")
        for name in ("nasa_interval", "clip", "fake_score_interval"):
            if self.objective == "boot" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of the objective pgsb, but objective is boot")

    @property
    def unused(self) -> list[str]:
        """Names of settings that are not at their defaults and of which the objective makes no use."""
        usual, names = TrainSettings(), NOT_OF_BOOT if self.objective == "boot" else ()
        return [name for name in names if getattr(self, name) != getattr(usual, name)]

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two trainings the same, as JSON can hold it.

        A setting that came later counts where it is set: what was trained before keeps its name.
        """
        unset = {each.name for each in fields(self) if each.metadata == LATER and self._is_default(each)}
        return {key: value for key, value in asdict(self).items() if key not in unset}

    @property
    def computed(self) -> "TrainSettings":
        """The same training, in so far as it says what a step computes: all others at their defaults."""
        return TrainSettings(**{name: getattr(self, name) for name in COMPUTED})

    def _is_default(self, setting: Field[Any]) -> bool:
        return bool(getattr(self, setting.name) == setting.default)
