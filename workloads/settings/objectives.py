"""Settings of objectives beside those of PG-SB, and the names under which objectives are published.

Importing this costs nothing (no torch), so a sweep file can be checked before anything starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workloads.settings.validation import STRICT, check_positive, check_ranges


@dataclass(frozen=True)
class ClipLossSettings:
    """The clamped CLIP loss on the student's pictures; defaults as published (SwiftBrush v2, eq. 5)."""

    __pydantic_config__ = STRICT

    model: str = "openai/clip-vit-base-patch32"
    """Folder of a CLIP model in transformers' format, its id on the hub, or `miniature/clip`."""
    margin: float = 0.35
    """Cosine tau from which on a picture agrees with its prompt well enough (SNOOPI: 0.37)."""
    weight: float = 0.1
    """Beside the student's loss at the first step; falls in a line, to 0 at the end of the training."""
    every: int = 1
    """Steps between two that have it: pictures must be decoded for it."""

    def __post_init__(self) -> None:
        check_positive(self, ("weight",))
        check_ranges(self, {"margin": (-1, 1), "every": (1, 1_000_000)})
        if not self.model.strip():
            raise ValueError("model is empty: name a CLIP model")


@dataclass(frozen=True)
class BootSettings:
    """The objective BOOT (arXiv 2306.05544); `guidance_interval`, `guidance_per` and `timestep_range`
    are its settings too, the last as the stretch of the teacher's trajectory that is learnt."""

    __pydantic_config__ = STRICT

    step_size: float = 0.04
    """Share of the schedule that the teacher goes in one step of its trajectory (the paper's delta)."""
    boundary_weight: float = 1.0
    """Of the loss at the trajectory's beginning (the paper's beta)."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must be above 0 and below 1, not {self.step_size}")
        check_positive(self, ("boundary_weight",))


NAMED: dict[str, dict[str, Any]] = {
    "swiftbrush": {"guidance_interval": (4.5, 4.5), "lora": {"alpha": 108.0}},
    "swiftbrush_v2": {
        "guidance_interval": (4.5, 4.5),
        "clip": {},
        "student_lora": {"rank": 256, "alpha": 512.0},
    },
}
"""What else is published as an objective, and is PG-SB with other settings.

SwiftBrush (arXiv 2312.05239, its code) has one guidance scale, low = high. SwiftBrush v2 (arXiv
2408.14176, model B) has besides a CLIP loss, and an adapter for a student, which is to be started
from a one-step model (`start_from`); its other half, A, is swiftbrush with `start_from`, and
`fusion` makes one student of the two.
"""

OBJECTIVES = ("pgsb", *NAMED, "boot")
"""All names that `train.objective` may have in a sweep file."""


def published(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what their objective's name stands for, wherever they do not say otherwise."""
    named = NAMED.get(str(values.get("objective")))
    return dict(values) if named is None else {**named, **values, "objective": "pgsb"}


IN_WORDS = {
    "pgsb": (
        "PG-SB (SNOOPI, [arXiv 2412.02687](https://arxiv.org/abs/2412.02687)): variational score distillation"
    ),
    "boot": (
        "BOOT ([arXiv 2306.05544](https://arxiv.org/abs/2306.05544)): bootstrapping along its teacher's "
        "trajectory"
    ),
}
"""What a student's card says of each objective."""
