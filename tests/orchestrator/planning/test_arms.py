"""Arms of a sweep file: named sets of settings, tried on every backbone."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.plan import Plan, make_plan
from tests.support.training_settings import pgsb

REPOSITORY = Path(__file__).parents[3]
SWEEP = """name: tiny
prompts: {source: "miniature:64"}
backbones:
  - {name: pixart, model: miniature/pixart}
  - {name: unet-v, model: miniature/unet-v, train: {guided: teacher, learning_rate: 3.0e-4}}
train:
  steps: 10
  seed: {values: [0, 1]}
evaluate:
  sheet_prompts: [a circle]
"""
ARMS = """arms:
  - {name: random, train: {guidance_interval: [1, 5], guided: both}}
  - name: fixed
    train: {guidance_interval: [3, 3]}
"""


def plan(folder: Path, text: str) -> Plan:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return make_plan(load_sweep(path))


def test_arms_are_tried_on_every_backbone(tmp_path: Path) -> None:
    made = plan(tmp_path, SWEEP + ARMS)
    assert len(made.trials) == 2 * 2 * 2
    on_unet = {t.arm: pgsb(t) for t in made.trials if t.backbone.name == "unet-v" and t.train.seed == 1}
    assert (on_unet["random"].guided, on_unet["random"].guidance_interval) == ("both", (1, 5))
    assert (on_unet["fixed"].guided, on_unet["fixed"].guidance_interval) == ("teacher", (3, 3))
    assert {train.learning_rate for train in on_unet.values()} == {3e-4}
    shown = describe_plan(made, "x", "y")
    assert "8 trials on 2 backbones in 2 arms" in shown and "unet-v-random-s1-" in shown


def test_arm_names_are_not_in_digests(tmp_path: Path) -> None:
    """The same training with and without arms is one, so its result is reused."""
    named = plan(tmp_path, SWEEP + ARMS.replace("guided: both", "guided: teacher"))
    swept = plan(tmp_path, SWEEP.replace(
        "  steps: 10", "  steps: 10\n  guidance_interval: {values: [[1, 5], [3, 3]]}"))  # fmt: skip
    unet = [{t.digest for t in each.trials if t.backbone.name == "unet-v"} for each in (named, swept)]
    assert unet[0] == unet[1] and len(unet[0]) == 4


WRONG = [
    (ARMS.replace("guided: both", "guidet: both"), r":12: arms.0.train.guidet: unknown key; .*'guided'"),
    (ARMS.replace("[3, 3]", "[3, 1]"), r":14: arms.1.train.guidance_interval: .*low is above high"),
    (ARMS.replace("[3, 3]", "{values: []}"), r":14: arms.1.train.guidance_interval.values: .*at least 1"),
    (ARMS.replace("name: fixed", "name: random"), r"arms: have a duplicate name"),
    (
        ARMS.replace("[3, 3]", "[1, 5], guided: both"),
        r"arms: two trials are the same: pixart-fixed-.* and pixart-ran",
    ),
    (ARMS.replace("name: fixed", "name: a b"), r":13: arms.1.name: .*pattern"),
    ("arms:\n  - {name: random}\n", r":12: arms.0.train: this setting is required: add it"),
]


@pytest.mark.parametrize(("arms", "message"), WRONG, ids=[message for _, message in WRONG])
def test_mistakes_name_line_and_setting(tmp_path: Path, arms: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(tmp_path, SWEEP + arms)


def test_study_pairs_an_interval_with_its_mean() -> None:
    made = make_plan(load_sweep(REPOSITORY / "sweeps/stability.yaml"))
    cells = {(t.backbone.name, t.arm) for t in made.trials}
    assert len({t.backbone.name for t in made.trials}) == 3
    assert len(made.trials) == 5 * len(cells) == 5 * 3 * len(made.sweep.arms)
    train = {t.arm: pgsb(t) for t in made.trials if t.train.seed == 0}
    random, fixed = train["random-sample"], train["fixed-3"]
    low, high = random.guidance_interval
    assert fixed.guidance_interval == ((low + high) / 2,) * 2
    same = {key: value for key, value in random.identity.items() if key != "guidance_interval"}
    assert same.items() <= fixed.identity.items()
