"""Sweep files: shipped ones load and plan, mistakes are one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.config.renamed_settings import ADDED, in_old_form
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.estimate import check_budget
from orchestrator.planning.plan import make_plan
from tests.support.cli import MINIMAL
from tests.support.training_settings import pgsb

REPOSITORY = Path(__file__).parents[3]
SHIPPED = sorted((REPOSITORY / "sweeps").glob("*.yaml"))


LAUNCHES = {
    "adapter-students": "ac5fd7d2f5bf",
    "backbones": "1f93db6c7a0e",
    "boot": "4d0744c770e6",
    "edge": "73b5b6076a0d",
    "flow": "c3ae96c718d1",
    "flow-guidance": "4e3c88ba16fa",
    "guidance-input": "0d8288956e1b",
    "miniature": "0ce3fb2bd9d1",
    "objectives": "bf087c1c46a9",
    "pairs": "86ff0a4d6d59",
    "stability": "f2d517857d4a",
    "student-steps": "b9eb21e11493",
    "tune-new-backbone": "9916c08ee994",
}
"""Launch digests of the shipped sweeps, which stored results carry. That of `backbones` changed with the
revisions of its models, those of `miniature` and `objectives` with more backbones; their older trials stay
valid."""
MINIATURE_TRIALS = ["b6dd788f0c62", "81c80e4555c4"]
"""Digests of the first trials of `sweeps/miniature.yaml`, which older results have too."""


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_and_plan(path: Path) -> None:
    plan = make_plan(load_sweep(path))
    assert f"trials on {len(plan.sweep.backbones)} backbones" in describe_plan(plan, "x", "y")


def test_shipped_sweeps_keep_their_digests() -> None:
    plans = {path.stem: make_plan(load_sweep(path)) for path in SHIPPED}
    assert {name: plan.digest for name, plan in plans.items()} == LAUNCHES
    assert [trial.digest for trial in plans["miniature"].trials[:2]] == MINIATURE_TRIALS


def test_miniature_has_a_control() -> None:
    plan = make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml"))
    by_backbone: dict[str, list[tuple[float, float]]] = {}
    for trial in plan.trials:
        by_backbone.setdefault(trial.backbone.name, []).append(trial.train.teacher_scales)
    assert len(by_backbone) == 5
    for name, ((low, high), *control) in by_backbone.items():
        mean = (low + high) / 2
        assert low < high and control == ([(mean, mean)] if name == "pixart" else [])


def test_train_override_applies_to_all_trials(tmp_path: Path) -> None:
    """Also if a backbone or an arm has its own value; a later override of one backbone remains."""

    def steps(name: str, *overrides: str) -> set[tuple[str, int]]:
        trials = make_plan(load_sweep(REPOSITORY / f"sweeps/{name}.yaml", list(overrides))).trials
        return {(trial.backbone.name, trial.train.steps) for trial in trials}

    names = {name for name, _ in steps("miniature")}
    assert len({count for _, count in steps("miniature")}) > 1
    assert steps("miniature", "train.steps=7") == {(name, 7) for name in names}
    one = steps("miniature", "train.steps=7", "backbones.pixart.train.steps=9")
    assert one == {(name, 9 if name == "pixart" else 7) for name in names}

    text = MINIMAL + "arms:\n- {name: a, train: {seed: 1}}\n- {name: b, train: {seed: 2, null_rate: 0.5}}\n"
    trials = make_plan(load_sweep(write(tmp_path, text), ["train.null_rate=0.25"])).trials
    assert [(trial.train.seed, pgsb(trial).null_rate) for trial in trials] == [(1, 0.25), (2, 0.25)]
    with pytest.raises(UserError, match=r"--set train\.steps=x: backbones\.0\.train\.steps: "):
        make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml", ["train.steps=x"]))


WRONG = [
    ("train:\n  steps: 10", "train:\n  stepz: 10", r":6: train.stepz: unknown key; the nearest .* 'steps'"),
    ("steps: 10", "steps: ten", r":6: train.steps: .*integer.*not 'ten'"),
    ("steps: 10", "guidance_interval: [4, 1]", r":6: train.guidance_interval: .*: low is above high"),
    ("name: tiny\n", "", r"sweep.yaml: name: this setting is required: add it"),
    ("name: tiny\n", "name: tiny\nname: big\n", r":2: duplicate key 'name': remove one"),
    ("name: tiny", "name: [tiny", r"sweep.yaml:\d+: not valid YAML"),
    ("miniature/pixart", "miniature/pixel", r":4: backbones.0.model: no 'miniature/pixel': choose one of"),
    ("steps: 10", "steps: {min: 5, max: 1}", r"train.steps: .*needs min < max"),
    ("steps: 10", "seed: {values: []}", r"train.seed.values: .*at least 1 item"),
    ("steps: 10", "seed: {values: [1, 1]}", r"two trials are the same"),
    ("tiny", "ti/ny", r":1: name: .*pattern"),
    ("sheet_prompts", "sheet_promts", r":8: evaluate.sheet_promts: unknown key; .* 'sheet_prompts'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[new.strip()[:24] for _, new, _ in WRONG])
def test_wrong_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MINIMAL
    with pytest.raises(UserError, match=message) as caught:
        make_plan(load_sweep(write(tmp_path, MINIMAL.replace(old, new, 1))))
    assert "\n" not in str(caught.value)


OVERRIDES = [
    ("train.steps", r"write --set key=value"),
    ("train.steps=[", r"not valid YAML"),
    ("backbones.nobody.model=x", r"no 'nobody' in backbones: \['pixart'\]"),
    ("train.steps=abc", r"^--set train.steps=abc: train.steps: "),
    ("nonsense=1", r"^--set nonsense=1: nonsense: unknown key"),
    ("name.first=1", r"is not a section"),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(load_sweep(write(tmp_path, MINIMAL), [override]))


def test_overrides_reach_into_lists_by_name(tmp_path: Path) -> None:
    overrides = ["backbones.pixart.start_timestep=500", "train.lora.rank=4"]
    trial = make_plan(load_sweep(write(tmp_path, MINIMAL), overrides)).trials[0]
    assert trial.backbone.start_timestep == 500 and pgsb(trial).lora.rank == 4


def test_exponents_need_no_decimal_point(tmp_path: Path) -> None:
    """As in YAML 1.2; PyYAML alone reads 1e-6 as text."""
    trial = make_plan(load_sweep(write(tmp_path, MINIMAL), ["train.learning_rate=1e-6"])).trials[0]
    assert trial.train.learning_rate == 1e-6


def test_grid_and_draws_multiply_and_are_seeded(tmp_path: Path) -> None:
    overrides = [
        "train.seed={values: [0, 1]}",
        "train.learning_rate={min: 1.0e-6, max: 1.0e-4, distribution: log_uniform}",
        "search.samples=3",
    ]
    plan, again = (make_plan(load_sweep(write(tmp_path, MINIMAL), overrides)) for _ in range(2))
    assert len(plan.trials) == 6
    assert all(1e-6 <= trial.train.learning_rate <= 1e-4 for trial in plan.trials)
    assert len({trial.train.learning_rate for trial in plan.trials}) == 3
    assert [t.digest for t in plan.trials] == [t.digest for t in again.trials]


def test_digest_ignores_evaluation_and_resources(tmp_path: Path) -> None:
    def digest(*overrides: str) -> str:
        return make_plan(load_sweep(write(tmp_path, MINIMAL), list(overrides))).trials[0].digest

    assert digest() == digest("evaluate.samples=8") == digest("resources.workers=2")
    assert digest() != digest("train.seed=1")


def test_batch_must_be_divisible_by_workers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"64 is not divisible by the 3 resources\.workers"):
        make_plan(load_sweep(write(tmp_path, MINIMAL), ["resources.workers=3"]))


def test_sweep_above_its_budget_is_refused() -> None:
    plan = make_plan(load_sweep(REPOSITORY / "sweeps/backbones.yaml", ["budget.max_gpu_hours=10"]))
    with pytest.raises(UserError, match=r"about \d+ GPU-hours, above budget.max_gpu_hours 10"):
        check_budget(plan)


def test_command_reports_mistakes_fast(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("steps", "stepz"))
    began = os.times().children_user
    command = [sys.executable, "-m", "orchestrator.run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}:6: train.stepz: unknown key")
    assert done.stderr.count("\n") == 1
    assert os.times().children_user - began < 10


def test_command_refuses_a_missing_backbone(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("miniature/pixart", str(tmp_path)))
    command = [sys.executable, "-m", "orchestrator.run", str(path), "--storage", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2
    assert "is not a diffusers pipeline" in done.stderr and "Traceback" not in done.stderr


def test_a_setting_that_was_added_later_is_in_no_digest_until_it_is_used() -> None:
    """Else every launch would have another name after an upgrade."""
    for (section, name), default in ADDED.items():
        assert name not in in_old_form({section: {name: default}})[section]
        assert name in in_old_form({section: {name: 7}})[section]
