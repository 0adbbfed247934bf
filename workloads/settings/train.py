"""Settings of a training: objective, networks and optimisers, with their published defaults.

Imports no torch, so a sweep file is checked in milliseconds. The digest that names a trial is made of
`TrainSettings.identity`, so no setting may be renamed, and no default changed.
"""

import math
import os.path
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal

from workloads.settings import guidance_input
from workloads.settings.objectives import BootSettings, ClipLossSettings
from workloads.settings.validation import STRICT, check_positive, check_ranges

ADDED_LATER: dict[str, bool] = {"added_later": True}
"""Metadata of settings that `TrainSettings.identity` leaves out at their defaults."""
ScoreBatch = Literal["all", "role", "prediction"]
Distribution = Literal["uniform", "logit_normal"]
"""Distribution of timesteps."""
MAX_FLOW_SHIFT = 100
MAX_GUIDANCE_SCALE = 1000
"""Largest guidance scale, and largest NASA strength, of an interval."""
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000_000),
    "batch_size": (1, 65_536),
    "seed": (0, 2**63 - 1),
    "weight_decay": (0, math.inf),
    "gradient_clip": (0, math.inf),
}
"""Wide limits that catch typing errors, which would otherwise surface hours later."""
COST_SETTINGS = (
    "objective",
    "batch_size",
    "lora",
    "student_lora",
    "guided",
    "nasa_interval",
    "fake_score_updates",
    "clip",
    "student_steps",
    "guidance_input",
)
"""Settings that change the shapes or the number of the tensors that a step computes."""


@dataclass(frozen=True)
class LoraSettings:
    """A LoRA adapter; defaults are those of the published fake score (SwiftBrush v2 and SNOOPI)."""

    __pydantic_config__ = STRICT

    rank: int = 64
    """Rank r of the update."""
    alpha: float = 128.0
    """Numerator of the factor alpha / rank on the adapter's output."""
    targets: tuple[str, ...] = ("to_q", "to_v")
    """Name suffixes of the adapted linear and convolution layers; [all]: every such layer."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rank": (1, 4096)})
        check_positive(self, ("alpha",))
        if not self.targets or not all(target.strip() for target in self.targets):
            raise ValueError("targets must name layers, as in [to_q, to_v], or be [all]")


@dataclass(frozen=True)
class AttentionGuidanceSettings:
    """Guidance of a student's attention away from a negative prompt."""

    __pydantic_config__ = STRICT

    kind: Literal["none", "nasa", "nag", "vsf"] = "none"
    """nasa: Z+ - strength Z- (SNOOPI, arXiv 2412.02687v3, eq. 9), in cross-attention alone; nag: Z+ +
    strength (Z+ - Z-), clipped and blended (NAG, arXiv 2505.21179, eqs. 7 to 10); vsf: one softmax over the
    keys of both prompts, the negative's values times -strength (VSF, arXiv 2508.10931)."""
    strength: float = 0.0
    """alpha of NASA, phi of NAG, a of VSF; 0 leaves the student as it is."""
    clip: float = 2.5
    """nag: largest factor tau by which a token's L1 norm may grow; 0 turns clipping off."""
    blend: float = 0.375
    """nag: weight a of the guided features in the layer's output; 1: only the guided features."""

    def __post_init__(self) -> None:
        check_ranges(self, {"strength": (0, 1000), "clip": (0, math.inf)})
        if not 0 < self.blend <= 1:
            raise ValueError(f"blend must be above 0 and at most 1, not {self.blend}")
        if self.kind != "nag" and (self.clip, self.blend) != (2.5, 0.375):
            raise ValueError(f"clip and blend are settings of nag, not of {self.kind}")
        if self.kind == "none" and self.strength:
            raise ValueError("a strength needs a kind: nasa, nag or vsf")

    @property
    def label(self) -> str:
        """Name of the kernel for tables and plots, without its strength."""
        if self.kind != "nag" or (self.clip, self.blend) == (2.5, 0.375):
            return self.kind
        if self.clip == 0 and self.blend == 1:
            return "extrapolation"
        return f"nag(clip {self.clip:g}, blend {self.blend:g})"


@dataclass(frozen=True)
class PGSBSettings:
    """The objective PG-SB; defaults as published (SwiftBrush's code; SNOOPI v3, table 6)."""

    __pydantic_config__ = STRICT

    guidance_interval: tuple[float, float] = (0.5, 4.0)
    """[low, high] of the uniform guidance scale; low = high: a fixed scale; 1: no guidance."""
    guidance_per: Literal["sample", "batch"] = "sample"
    """sample: each sample draws its own scale; batch: one scale per batch. The paper leaves this open."""
    guided: Literal["both", "teacher", "fake_score"] = "both"
    """Scores that are guided; both is best in the ablation of SNOOPI v1, table 2."""
    guidance_input: bool | Literal["student"] = field(default=False, metadata=ADDED_LATER)
    """True if student and fake score read the guidance scale, which is then chosen when pictures are drawn:
    one training for all scales of the interval, drawn log-uniformly. student: the student alone reads it, a
    control."""
    fake_score_interval: tuple[float, float] | None = field(default=None, metadata=ADDED_LATER)
    """[low, high] of a separate scale for the fake score; None: it shares the teacher's scale."""
    weighting: Literal["sigma_squared", "uniform", "dmd"] = "sigma_squared"
    """Weight w(t) of the student's gradient. dmd: the gradient is a difference of images, not of noise,
    and is normalised to the same magnitude at every timestep (DMD, arXiv 2311.18828)."""
    timestep_range: tuple[float, float] = (0.02, 0.981)
    """Range of t for the student's loss, as fractions of the schedule: [20, 981) of 1000."""
    timesteps: Distribution = field(default="uniform", metadata=ADDED_LATER)
    """Distribution of t for the student's loss, over that range."""
    fake_score_timesteps: Distribution | None = field(default=None, metadata=ADDED_LATER)
    """Distribution of t for the fake score's loss, over the whole schedule. None: uniform (SwiftBrush's
    code), but logit_normal for flow matching, as in today's tools (RTDMD, Model-Optimizer)."""
    flow_shift: float | None = field(default=None, metadata=ADDED_LATER)
    """Shift s of flow matching, t = s u / (1 + (s - 1) u); above 1, t is drawn nearer to noise. None: that of
    the teacher's scheduler."""
    norm_rescaled_guidance: bool = field(default=False, metadata=ADDED_LATER)
    """True if each token of a guided prediction is scaled back to the norm of the conditional one, as the
    pipeline of Qwen-Image does. The result is not linear in the scale."""
    null_rate: float = 0.1
    """Fraction of samples on which the fake score trains without a prompt, which guiding it needs."""
    nasa_interval: tuple[float, float] | None = None
    """[low, high] of the strength for NASA-T (SNOOPI v3, sec. 5.3, [0, 1] there); None: no NASA-T.

    The student trains with NASA away from a negative prompt, at a strength drawn for each step, and
    the teacher is guided against that prompt."""
    fake_score_updates: int = 1
    """Updates of the fake score per update of the student."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """The fake score's adapter."""
    clip: ClipLossSettings | None = field(default=None, metadata=ADDED_LATER)
    """CLIP loss added to the student's loss (SwiftBrush v2 and SNOOPI); None: no CLIP loss."""

    def __post_init__(self) -> None:
        low, high = self.guidance_interval
        if low > high:
            raise ValueError(f"guidance_interval [{low}, {high}]: low is above high")
        for name in ("guidance_interval", "fake_score_interval", "nasa_interval"):
            low, high = getattr(self, name) or (0, 0)
            if not 0 <= low <= high <= MAX_GUIDANCE_SCALE:
                raise ValueError(f"{name} [{low}, {high}]: needs 0 <= low <= high <= {MAX_GUIDANCE_SCALE}")
        first, last = self.timestep_range
        if not 0 <= first < last <= 1:
            raise ValueError(f"timestep_range [{first}, {last}]: needs 0 <= first < last <= 1")
        check_ranges(self, {"null_rate": (0, 1), "fake_score_updates": (1, 1000)})
        if self.flow_shift is not None:
            check_positive(self, ("flow_shift",))
            check_ranges(self, {"flow_shift": (0, MAX_FLOW_SHIFT)})
        if self.fake_score_interval is not None and self.guided != "both":
            raise ValueError(f"fake_score_interval needs guided: both, but guided is {self.guided}")
        if self.nasa_interval is not None and self.guided == "fake_score":
            raise ValueError("nasa_interval guides the teacher: guided must be both or teacher")
        guidance_input.check_interval(self)


@dataclass(frozen=True)
class StepSettings:
    """Settings that make a step faster or smaller in memory; its results differ by rounding only."""

    __pydantic_config__ = STRICT

    activation_checkpointing: bool = False
    """True if the backward pass recomputes the activations of a network's blocks. With `compile` the
    compiler does so, within the compiled blocks only, which saves less memory but costs less time."""
    score_batch: ScoreBatch = "prediction"
    """Grouping of a sample's four score predictions into calls of the network: all in one call (a mask
    selects adapters row by row), one call per role, or one call per prediction (least memory)."""
    compile: bool = False
    """True if torch.compile compiles the networks' transformer blocks; delays the first step by minutes."""


BOOT_IGNORES = (
    "guided",
    "weighting",
    "timesteps",
    "null_rate",
    "fake_score_updates",
    "fake_score_timesteps",
    "lora",
    "fake_score_learning_rate",
)
"""Settings of PG-SB that BOOT ignores; it accepts them, because a sweep may share them between objectives."""


@dataclass(frozen=True)
class TrainSettings(PGSBSettings):
    """All settings that determine a training; a change to any of them makes another trial."""

    objective: Literal["pgsb", "boot"] = field(default="pgsb", metadata=ADDED_LATER)
    """Objective of the training. A sweep file may also name a preset, swiftbrush or swiftbrush_v2: see
    `workloads.settings.objectives.PRESETS`."""
    boot: BootSettings = field(default=BootSettings(), metadata=ADDED_LATER)
    """Settings of the objective boot."""
    steps: int = 50_000
    """Updates of the student."""
    batch_size: int = 64
    """Samples per step, summed over all workers."""
    seed: int = 0
    """Seed of noise, timesteps, guidance scales and the order of prompts."""
    learning_rate: float = 1e-6
    """Learning rate of the student (AdamW)."""
    fake_score_learning_rate: float = 1e-3
    """Learning rate of the fake score's adapter (AdamW)."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """beta_1 and beta_2 of both optimisers."""
    weight_decay: float = 0.0
    """Weight decay of both optimisers."""
    gradient_clip: float = 1.0
    """Largest gradient norm, for both networks; 0 turns clipping off."""
    ema_decay: float = 0.999
    """Decay of the student's averaged weights, which are evaluated and saved."""
    start_from: str | None = None
    """Pipeline whose network initialises the student; None: the teacher's own network."""
    student_lora: LoraSettings | None = field(default=None, metadata=ADDED_LATER)
    """Adapter that the student trains instead of all its weights (SwiftBrush v2); None: all weights."""
    student_steps: Literal[1, 2, 4] = field(default=1, metadata=ADDED_LATER)
    """Network calls with which the student draws a picture, at noise levels that are fixed by the scheduler
    saved with it (`workloads.students.schedulers`). Above 1 each step of the training trains one of them, in
    turn, on what the student draws up to there (DMD2, arXiv 2405.14867, sec. 4.5)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of all networks; auto: bf16 on GPUs, fp32 on CPUs."""
    collapse_ratio: float = 0.05
    """Ratio of the spread of the student's images over a batch to that at the first step, below which
    (or above whose inverse) the training counts as collapsed. Non-finite losses also count as a collapse."""

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
        if self.start_from is not None:
            object.__setattr__(self, "start_from", os.path.expanduser(self.start_from))
        guidance_input.check_student(self)
        self._check_objective()

    def _check_objective(self) -> None:
        if self.objective == "pgsb" and self.boot != BootSettings():
            raise ValueError("boot has settings of the objective boot, but objective is pgsb")
        for name in ("nasa_interval", "clip", "fake_score_interval"):
            if self.objective == "boot" and getattr(self, name) is not None:
                raise ValueError(f"{name} is a setting of the objective pgsb, but objective is boot")
        if self.objective == "boot" and self.student_steps != 1:
            raise ValueError(f"student_steps must be 1 for the objective boot, not {self.student_steps}")

    @property
    def neutral_scale(self) -> float | None:
        """Scale at which a student with `guidance_input` draws by its own weights; None for others."""
        return guidance_input.middle(self.guidance_interval) if self.guidance_input else None

    @property
    def unused(self) -> list[str]:
        """Names of settings that differ from their defaults and that the objective ignores."""
        defaults, names = TrainSettings(), BOOT_IGNORES if self.objective == "boot" else ()
        return [name for name in names if getattr(self, name) != getattr(defaults, name)]

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that identify the training, as values for JSON; the trial's digest is made of them.

        Settings marked `ADDED_LATER` are left out at their defaults, so that trials that finished
        before a setting existed keep their digests.
        """
        later = (each for each in fields(self) if each.metadata == ADDED_LATER)
        omitted = {each.name for each in later if self._is_default(each)}
        return {key: value for key, value in asdict(self).items() if key not in omitted}

    @property
    def cost_settings(self) -> "TrainSettings":
        """The `COST_SETTINGS` of this training, all others at their defaults.

        Trainings that agree in them need the same memory and arithmetic per step.
        """
        return TrainSettings(**{name: getattr(self, name) for name in COST_SETTINGS})

    def _is_default(self, setting: Field[Any]) -> bool:
        return bool(getattr(self, setting.name) == setting.default)
