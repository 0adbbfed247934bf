"""Settings of the CLIP loss and of BOOT, and the names under which objectives are published.

Imports no torch, so a sweep file is checked in milliseconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workloads.settings.validation import STRICT, check_positive, check_ranges


@dataclass(frozen=True)
class ClipLossSettings:
    """The clamped CLIP loss on the student's images; defaults as published (SwiftBrush v2, eq. 5)."""

    __pydantic_config__ = STRICT

    model: str = "openai/clip-vit-base-patch32"
    """Folder of a CLIP model in transformers' format, its id on the hub, or `miniature/clip`."""
    margin: float = 0.35
    """Cosine similarity tau of image and prompt above which the loss is 0 (SNOOPI: 0.37)."""
    weight: float = 0.1
    """Factor on the loss at the first step; it falls linearly to 0 at the end of the training."""
    every: int = 1
    """Interval in steps between two evaluations of the loss, for which images must be decoded."""

    def __post_init__(self) -> None:
        check_positive(self, ("weight",))
        check_ranges(self, {"margin": (-1, 1), "every": (1, 1_000_000)})
        if not self.model.strip():
            raise ValueError("model is empty: name a CLIP model")


@dataclass(frozen=True)
class BootSettings:
    """The objective BOOT (arXiv 2306.05544).

    It also uses `guidance_interval`, `guidance_per` and `timestep_range` of `TrainSettings`, the last
    as the part of the teacher's trajectory that the student learns.
    """

    __pydantic_config__ = STRICT

    step_size: float = 0.04
    """Step of the teacher along its trajectory, as a fraction of the schedule (the paper's delta)."""
    boundary_weight: float = 1.0
    """Weight of the loss at the start of the trajectory, where t = T (the paper's beta)."""

    def __post_init__(self) -> None:
        if not 0 < self.step_size < 1:
            raise ValueError(f"step_size must be above 0 and below 1, not {self.step_size}")
        check_positive(self, ("boundary_weight",))


PRESETS: dict[str, dict[str, Any]] = {
    "swiftbrush": {"guidance_interval": (4.5, 4.5), "lora": {"alpha": 108.0}},
    "swiftbrush_v2": {
        "guidance_interval": (4.5, 4.5),
        "clip": {},
        "student_lora": {"rank": 256, "alpha": 512.0},
    },
}
"""Published objectives that are PG-SB with other settings.

SwiftBrush (arXiv 2312.05239, its code) uses one fixed guidance scale, low = high. SwiftBrush v2 (arXiv
2408.14176) fuses two students. Model B, `swiftbrush_v2` here, adds a CLIP loss and trains a LoRA adapter
of a student that should start from a one-step model (`start_from`). Model A is `swiftbrush` with
`start_from`. `python -m workloads.students.merge` merges both students.
"""

OBJECTIVES = ("pgsb", *PRESETS, "boot")
"""Names that `train.objective` accepts in a sweep file."""


def expand_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the name of a preset by its settings; settings given in `values` take precedence."""
    preset = PRESETS.get(str(values.get("objective")))
    return dict(values) if preset is None else {**preset, **values, "objective": "pgsb"}


DESCRIPTIONS = {
    "pgsb": (
        "PG-SB (SNOOPI, [arXiv 2412.02687](https://arxiv.org/abs/2412.02687)): variational score distillation"
    ),
    "boot": (
        "BOOT ([arXiv 2306.05544](https://arxiv.org/abs/2306.05544)): bootstrapping along its teacher's "
        "trajectory"
    ),
}
"""Description of each objective on a student's model card, in Markdown."""
