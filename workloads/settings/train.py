"""Settings of a training: objective, networks and optimisers, with their published defaults.

Imports no torch, so a sweep file is checked in milliseconds. The digest that names a trial is made of
`TrainSettings.identity`, so no setting may be renamed, and no default changed.
"""

import math
import os.path
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Literal, Self

from workloads.settings.pairs import PairSettings
from workloads.settings.validation import STRICT, check_positive, check_ranges

ADDED_LATER: dict[str, bool] = {"added_later": True}
"""Metadata of settings that `TrainSettings.identity` leaves out at their defaults."""
COST: dict[str, bool] = {"cost": True}
"""Metadata of settings that change the shapes or the number of the tensors that a step computes."""
ScoreBatch = Literal["all", "role", "prediction"]
MAX_FLOW_SHIFT = 100
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000_000),
    "batch_size": (1, 65_536),
    "seed": (0, 2**63 - 1),
    "weight_decay": (0, math.inf),
    "gradient_clip": (0, math.inf),
}
"""Wide limits that catch typing errors, which would otherwise surface hours later."""


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


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training that every objective has; each objective adds its own in a subclass.

    The subclasses are in `workloads.settings.objectives`. A change to any setting makes another trial.
    """

    __pydantic_config__ = STRICT

    objective: str = field(default="", metadata=COST)
    """Name of the objective; each subclass accepts its own alone."""
    steps: int = 50_000
    """Updates of the student."""
    batch_size: int = field(default=64, metadata=COST)
    """Samples per step, summed over all workers."""
    seed: int = 0
    """Seed of noise, timesteps, guidance scales and the order of prompts."""
    learning_rate: float = 1e-6
    """Learning rate of the student (AdamW)."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """beta_1 and beta_2 of all optimisers."""
    weight_decay: float = 0.0
    """Weight decay of all optimisers."""
    gradient_clip: float = 1.0
    """Largest gradient norm, for each network; 0 turns clipping off."""
    ema_decay: float = 0.999
    """Decay of the student's averaged weights, which are evaluated and saved."""
    start_from: str | None = None
    """Pipeline whose network initialises the student; None: the teacher's own network."""
    student_lora: LoraSettings | None = field(default=None, metadata={**ADDED_LATER, **COST})
    """Adapter that the student trains instead of all its weights (SwiftBrush v2); None: all weights."""
    student_steps: Literal[1, 2, 4] = field(default=1, metadata={**ADDED_LATER, **COST})
    """Network calls with which the student draws a picture, at noise levels that are fixed by the scheduler
    saved with it (`workloads.students.schedulers`). Above 1 each step of the training trains one of them, in
    turn, on what the student draws up to there (DMD2, arXiv 2405.14867, sec. 4.5)."""
    flow_shift: float | None = field(default=None, metadata=ADDED_LATER)
    """Shift s of flow matching, t = s u / (1 + (s - 1) u); above 1, t is drawn nearer to noise. None: that of
    the teacher's scheduler."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of all networks; auto: bf16 on GPUs, fp32 on CPUs."""
    collapse_ratio: float = 0.05
    """Ratio of the spread of the student's images over a batch to that at the first step, below which
    (or above whose inverse) the training counts as collapsed. Non-finite losses also count as a collapse."""

    def __post_init__(self) -> None:
        check_positive(self, ("learning_rate",))
        check_ranges(self, RANGES)
        for name in ("ema_decay", "collapse_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.adam_betas):
            raise ValueError(f"adam_betas {list(self.adam_betas)}: each must be at least 0 and below 1")
        if self.flow_shift is not None:
            check_positive(self, ("flow_shift",))
            check_ranges(self, {"flow_shift": (0, MAX_FLOW_SHIFT)})
        if self.start_from is not None and not self.start_from.strip():
            raise ValueError("start_from is empty: name a pipeline, or leave it out")
        if self.start_from is not None:
            object.__setattr__(self, "start_from", os.path.expanduser(self.start_from))

    @property
    def teacher_scales(self) -> tuple[float, float]:
        """Smallest and largest guidance scale at which the teacher is guided; equal for a fixed scale."""
        raise NotImplementedError

    @property
    def read_scales(self) -> tuple[float, float] | None:
        """Interval of the guidance scales that the student reads; None if it reads none."""
        return None

    @property
    def neutral_scale(self) -> float | None:
        """Scale at which a student that reads one draws by its own weights: the interval's geometric mean.

        None for students that read none.
        """
        return None if self.read_scales is None else math.sqrt(math.prod(self.read_scales))

    @property
    def trains_with_negatives(self) -> bool:
        """True if the training needs negative prompts."""
        return False

    @property
    def clip_model(self) -> str | None:
        """CLIP model of the CLIP loss; None without that loss."""
        return None

    @property
    def teacher_pairs(self) -> PairSettings | None:
        """Teacher pairs that the training reads; None if it reads none."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that identify the training, as values for JSON; the trial's digest is made of them.

        Settings marked `ADDED_LATER` are left out at their defaults, so that trials that finished
        before a setting existed keep their digests.
        """
        later = (each for each in fields(self) if "added_later" in each.metadata)
        omitted = {each.name for each in later if self._is_default(each)}
        return {key: value for key, value in asdict(self).items() if key not in omitted}

    @property
    def cost_settings(self) -> Self:
        """This training with all settings at their defaults that are not marked `COST`.

        Trainings that agree in them need the same memory and arithmetic per step.
        """
        marked = (each.name for each in fields(self) if "cost" in each.metadata)
        return type(self)(**{name: getattr(self, name) for name in marked})

    def _is_default(self, setting: Field[Any]) -> bool:
        return bool(getattr(self, setting.name) == setting.default)
