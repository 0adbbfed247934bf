"""Identities of default settings: digests of finished trials are made of them, so they must not change."""

from dataclasses import fields
from typing import Any

import pytest
from pydantic import TypeAdapter

from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.catalogue import OBJECTIVES, SETTINGS, resolve
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.objectives.terms import RelationalSettings
from workloads.settings.train import TrainSettings

PGSB: dict[str, Any] = {
    "guidance_interval": (0.5, 4.0),
    "guidance_per": "sample",
    "guided": "both",
    "weighting": "sigma_squared",
    "timestep_range": (0.02, 0.981),
    "null_rate": 0.1,
    "nasa_interval": None,
    "fake_score_updates": 1,
    "lora": {"rank": 64, "alpha": 128.0, "targets": ("to_q", "to_v")},
    "steps": 50_000,
    "batch_size": 64,
    "seed": 0,
    "learning_rate": 1e-6,
    "fake_score_learning_rate": 1e-3,
    "adam_betas": (0.9, 0.999),
    "weight_decay": 0.0,
    "gradient_clip": 1.0,
    "ema_decay": 0.999,
    "start_from": None,
    "precision": "auto",
    "collapse_ratio": 0.05,
}
OF_PGSB = ("guided", "weighting", "null_rate", "nasa_interval", "fake_score_updates", "lora",
           "fake_score_learning_rate")  # fmt: skip
OF_SCORES = (*OF_PGSB, "guidance_interval", "guidance_per", "timestep_range")
SWIFTBRUSH = {
    "guidance_interval": (4.5, 4.5),
    "lora": {"rank": 64, "alpha": 108.0, "targets": ("to_q", "to_v")},
}
SWIFTBRUSH_V2 = {
    "guidance_interval": (4.5, 4.5),
    "clip": {"model": "openai/clip-vit-base-patch32", "margin": 0.35, "weight": 0.1, "every": 1},
    "student_lora": {"rank": 256, "alpha": 512.0, "targets": ("to_q", "to_v")},
}
BOOT = {
    "objective": "boot",
    **{key: value for key, value in PGSB.items() if key not in OF_PGSB},
    "step_size": 0.04,
    "boundary_weight": 1.0,
    "trajectory_weighting": "step",
    "guidance_interval": (3.0, 3.0),
    "clock_from": None,
    "solver": "euler",
}
ADVERSARIAL = {
    "weight": 0.1,
    "learning_rate": 1e-4,
    "reads_noise": True,
    "mix_rate": 0.25,
    "gradient_penalty": 1.0,
    "penalty_every": 16,
}
REGRESSION = {
    "objective": "regression",
    **{key: PGSB[key] for key in PGSB if key not in OF_SCORES},
    "pairs": {"steps": 50, "guidance_scale": 3.0, "seed": 0},
    "distance": "features",
    "features": "miniature/latents",
    "adversarial": None,
    "relational": None,
    "clip": None,
}
IDENTITIES: dict[str, dict[str, Any]] = {
    "pgsb": PGSB,
    "swiftbrush": {**PGSB, **SWIFTBRUSH},
    "swiftbrush_v2": {**PGSB, **SWIFTBRUSH_V2},
    "boot": BOOT,
    "regression": REGRESSION,
    "diffusion2gan": {**REGRESSION, "distance": "augmented_features", "adversarial": ADVERSARIAL},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_identity_of_default_settings(objective: str) -> None:
    found = resolve({"objective": objective})
    settings = TypeAdapter(found.kind).validate_python(found.values)
    assert settings.identity == IDENTITIES[objective]


def test_identity_holds_later_settings_when_set() -> None:
    settings = PGSBSettings(fake_score_interval=(1.0, 2.0))
    assert settings.identity == {**PGSB, "fake_score_interval": (1.0, 2.0)}


def test_neutral_scale_is_the_geometric_mean() -> None:
    settings = PGSBSettings(guidance_interval=(1.0, 9.0), guided="teacher", guidance_input=True)
    assert settings.neutral_scale == 3.0 and PGSBSettings().neutral_scale is None
    assert settings.identity["guidance_input"] is True


def test_no_setting_has_the_name_of_an_objective() -> None:
    """Both are keys of one section of a sweep file."""
    names = {each.name for kind in SETTINGS.values() for each in fields(kind)}
    assert not names & set(OBJECTIVES)


READS_SCALE = {"guidance_input": True, "guidance_interval": (1.0, 5.0)}
COMBINED: list[TrainSettings] = [
    PGSBSettings(guided="teacher", steps=7, **READS_SCALE),  # type: ignore[arg-type]
    PGSBSettings(nasa_interval=(0, 1), guided="teacher", flow_shift=2),
    BootSettings(steps=7, **READS_SCALE),  # type: ignore[arg-type]
    RegressionSettings(steps=7, relational=RelationalSettings(class_weight=0), distance="mse"),
]


@pytest.mark.parametrize("train", COMBINED, ids=str)
def test_cost_settings_are_settings_too(train: TrainSettings) -> None:
    """Settings that only go together with others are kept or dropped together with them."""
    kept = train.cost_settings
    assert type(kept) is type(train) and kept.steps == 50_000
    assert kept.read_scales is None or train.read_scales is not None
    assert kept.cost_settings == kept


def test_settings_of_one_name_are_alike() -> None:
    """Trainings of several objectives may share a section `train`."""
    types: dict[str, set[object]] = {}
    for kind in SETTINGS.values():
        for each in fields(kind):
            types.setdefault(each.name, set()).add(str(each.type))
    assert not {name for name, found in types.items() if len(found) > 1} - {"objective"}
