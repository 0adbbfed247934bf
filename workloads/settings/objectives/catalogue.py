"""The objectives that a sweep file can name, and how its values become the settings of one.

    values of `train` -> resolve -> Resolved: class, values, ignored

An objective's settings stand beside the others (`guidance_interval: ...`), in a section of its name
(`boot: {...}`), or with its name (`objective: {name: boot, ...}`); a later of these forms takes precedence.
Trainings of several objectives can therefore share one `train`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.train import TrainSettings

SETTINGS: dict[str, type[TrainSettings]] = {
    "pgsb": PGSBSettings,
    "boot": BootSettings,
    "regression": RegressionSettings,
}
"""Settings of each objective, by its name."""

PRESETS: dict[str, dict[str, Any]] = {
    "swiftbrush": {"guidance_interval": (4.5, 4.5), "lora": {"alpha": 108.0}},
    "swiftbrush_v2": {
        "guidance_interval": (4.5, 4.5),
        "clip": {},
        "student_lora": {"rank": 256, "alpha": 512.0},
    },
    "diffusion2gan": {"objective": "regression", "distance": "augmented_features", "adversarial": {}},
}
"""Published objectives that are PG-SB, or the objective that they name, with other settings.

SwiftBrush (arXiv 2312.05239, its code) uses one fixed guidance scale, low = high. SwiftBrush v2 (arXiv
2408.14176) fuses two students. Model B, `swiftbrush_v2` here, adds a CLIP loss and trains a LoRA adapter
of a student that should start from a one-step model (`start_from`). Model A is `swiftbrush` with
`start_from`. `python -m workloads.students.merge` merges both students.

Diffusion2GAN (arXiv 2405.05967) is paired regression with a discriminator.
"""

OBJECTIVES = ("pgsb", *PRESETS, *(name for name in SETTINGS if name != "pgsb"))
"""Names that `train.objective` accepts in a sweep file."""
LONG_FORM = "objective"
NAME = "name"

DESCRIPTIONS = {
    "pgsb": (
        "PG-SB (SNOOPI, [arXiv 2412.02687](https://arxiv.org/abs/2412.02687)): variational score distillation"
    ),
    "boot": (
        "BOOT ([arXiv 2306.05544](https://arxiv.org/abs/2306.05544)): bootstrapping along its teacher's "
        "trajectory"
    ),
    "regression": (
        "paired regression (as Diffusion2GAN, [arXiv 2405.05967](https://arxiv.org/abs/2405.05967)) on noise "
        "and the latents that the teacher draws from it"
    ),
}
"""Description of each objective on a student's model card, in Markdown."""


@dataclass(frozen=True)
class Resolved:
    """The settings of one training, before validation."""

    kind: type[TrainSettings]
    values: Mapping[str, Any]
    """Values of `kind` by name."""
    places: Mapping[str, str]
    """Name of the section, below `train`, of each setting that stands in one."""
    ignored: tuple[str, ...]
    """Given settings that are not of this objective but of another."""


def resolve(values: Mapping[str, Any]) -> Resolved:
    """Return the class and the values of a training, given the `values` of its sweep file.

    Raises:
        ValueError: No objective has that name; the message begins with the setting's name.
    """
    given = values.get(LONG_FORM, OBJECTIVES[0])
    own = dict(given) if isinstance(given, Mapping) else {NAME: given}
    chosen = own.pop(NAME, OBJECTIVES[0])
    if chosen not in OBJECTIVES:
        raise ValueError(f"{LONG_FORM} is {chosen!r}, not one of {', '.join(OBJECTIVES)}")
    preset = PRESETS.get(chosen)
    name = chosen if preset is None else preset.get(LONG_FORM, "pgsb")
    section = values.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} is {section!r}: give it the settings of that objective, or leave it out")
    others = {key for other in SETTINGS.values() for key in _names(other)} | set(SETTINGS)
    ignored = tuple(key for key in values if key in others - {*_names(SETTINGS[name]), name})
    shared = {key: value for key, value in values.items() if key not in (*ignored, name)}
    return Resolved(
        SETTINGS[name],
        {**(preset or {}), **shared, **section, **own, LONG_FORM: name},
        {**dict.fromkeys(section, name), **dict.fromkeys(own, LONG_FORM)},
        ignored,
    )


def _names(kind: type[TrainSettings]) -> set[str]:
    return {each.name for each in fields(kind)}
