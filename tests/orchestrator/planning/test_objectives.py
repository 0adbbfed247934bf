"""Objectives in a sweep file: names, refusals, and unchanged digests of older trials."""

import shutil
from pathlib import Path

import pytest

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.backbone_checks import check_backbones
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.estimate import worker_needs
from orchestrator.planning.plan import Plan, Trial, make_plan
from tests.support.cli import SWEEP, refused, written
from tests.support.training_settings import boot, pgsb
from workloads.miniature import FEATURES, WEIGHTS, features_file
from workloads.settings.objectives.terms import ClipLossSettings
from workloads.settings.train import LoraSettings

BEFORE = "88bc602bc899"
"""Digest of the trial of `SWEEP` in a version whose only objective was PG-SB."""
CLIP = "train.clip={model: miniature/clip}"
SHORT_STEPS = "train.objective={name: boot, step_size: 0.1}"


def plan(folder: Path, *overrides: str) -> Plan:
    return make_plan(load_sweep(Path(written(folder)), list(overrides)))


def only(folder: Path, *overrides: str) -> Trial:
    (trial,) = plan(folder, *overrides).trials
    return trial


def test_older_trials_keep_their_digests(tmp_path: Path) -> None:
    for same in ("seed=0", "objective=pgsb", "clip=null", "student_lora=null", "boot={step_size: 0.04}"):
        assert only(tmp_path, f"train.{same}").digest == BEFORE


@pytest.mark.parametrize(
    "change",
    ["train.objective=boot", CLIP, "train.student_lora={rank: 4}", "train.fake_score_interval=[1, 2]",
     "train.weighting=dmd"],
)  # fmt: skip
def test_every_later_setting_changes_the_digest(tmp_path: Path, change: str) -> None:
    assert only(tmp_path, change).digest != BEFORE


def test_boot_settings_are_in_the_digest(tmp_path: Path) -> None:
    one = only(tmp_path, "train.objective=boot")
    other = only(tmp_path, "train.objective=boot", "train.boot={step_size: 0.1}")
    assert one.digest != other.digest and "-boot-" in one.name
    assert boot(other).step_size == 0.1


def test_published_names_set_defaults(tmp_path: Path) -> None:
    """Published values, unless the file has its own."""
    swiftbrush = pgsb(only(tmp_path, "train.objective=swiftbrush"))
    assert (swiftbrush.objective, swiftbrush.guidance_interval) == ("pgsb", (4.5, 4.5))
    assert (swiftbrush.lora.rank, swiftbrush.lora.alpha, swiftbrush.clip) == (64, 108, None)
    second = pgsb(only(tmp_path, "train.objective=swiftbrush_v2", "train.guidance_interval=[2, 3]"))
    assert second.clip == ClipLossSettings("openai/clip-vit-base-patch32", 0.35, 0.1, 1)
    assert second.student_lora == LoraSettings(256, 512.0)
    assert second.guidance_interval == (2, 3)
    by_hand = only(tmp_path, "train.guidance_interval=[4.5, 4.5]", "train.lora={alpha: 108}")
    assert by_hand.digest == only(tmp_path, "train.objective=swiftbrush").digest


def test_objectives_can_be_swept(tmp_path: Path) -> None:
    trials = plan(tmp_path, "train.objective={values: [pgsb, swiftbrush, boot]}").trials
    assert [t.train.objective for t in trials] == ["pgsb", "pgsb", "boot"]
    assert len({t.digest for t in trials}) == 3


def test_forms_of_an_objective_are_one_training(tmp_path: Path) -> None:
    """Settings beside the others, in a section of the objective's name, or with its name."""
    forms = (
        ["train.objective=boot", "train.step_size=0.1"],
        ["train.objective=boot", "train.boot={step_size: 0.1}"],
        [SHORT_STEPS],
        # The last one counts.
        [
            "train.step_size=0.3",
            "train.boot={step_size: 0.2}",
            "train.objective={name: boot, step_size: 0.1}",
        ],
    )
    assert len({only(tmp_path, *form).digest for form in forms}) == 1
    long = "train.objective={name: pgsb, guided: teacher}"
    assert only(tmp_path, long).digest == only(tmp_path, "train.guided=teacher").digest != BEFORE


def test_plan_shows_ignored_settings(tmp_path: Path) -> None:
    shared = "train.objective={values: [pgsb, boot]}", "train.null_rate=0.3", "train.weighting=dmd"
    assert "objective boot ignores null_rate, weighting" in describe_plan(plan(tmp_path, *shared), "", "")
    assert " ignores " not in describe_plan(plan(tmp_path, shared[0]), "", "")
    assert " ignores " not in describe_plan(plan(tmp_path, *shared[1:]), "", "")


BOOT, REGRESSION = "train.objective=boot", "train.objective=regression"
REFUSED = [
    (["train.objective=gan"], r"train.objective: is 'gan', not one of pgsb, swiftbrush, "),
    (["train.objective={nam: pgsb}"], r"train.objective.nam: unknown key"),
    (
        ["train.objective={name: boot, step_size: 1}"],
        r"train.objective.step_size: must be above 0 and below 1",
    ),
    ([BOOT, "train.step_size=1"], r"train.step_size: must be above 0 and below 1"),
    ([BOOT, "train.boot=3"], r"train.boot: is 3: give it the settings of that objective, or leave it out"),
    ([BOOT, "train.boot={step_size: 1}"], r"train.boot.step_size: must be above 0 and below 1"),
    ([BOOT, "train.boot={boundary_weight: 0}"], r"train.boot.boundary_weight: must be above 0"),
    (["train.clip={margin: 2}"], r"train.clip.margin: must be at least -1 and at most 1, not 2"),
    (["train.clip={every: 0}"], r"train.clip.every: must be at least 1"),
    (["train.clip={weigth: 1}"], r"train.clip.weigth: unknown key; the nearest valid one is 'weight'"),
    (["train.clip={model: nobody/no-such-clip}"], r"train.clip: CLIP model 'nobody/no-such-clip' is not"),
    (["train.fake_score_interval=[3, 1]"], r"train.fake_score_interval: \[3.0, 1.0\]: needs 0 <= low"),
    (["train.fake_score_interval=[1, 3]", "train.guided=teacher"], r"but guided is teacher"),
    (
        [REGRESSION, "train.features=none.safetensors"],
        r"train.features: 'none.safetensors' is no safetensors file of LatentFeatures",
    ),
    (
        [
            "train.objective=regression",
            "backbones.pixart.model=miniature/sana",
            "backbones.pixart.start_timestep=999",
        ],
        r"train.features 'miniature/latents' is for latents of 4 channels, and this backbone has 16",
    ),
    ([REGRESSION, "train.pairs={steps: 0}"], r"train.pairs.steps: must be at least 1"),
    (
        [REGRESSION, "train.flow_shift=2"],
        r"train.flow_shift: moves timesteps",
    ),
    (["train.student_lora={rank: 0}"], r"train.student_lora.rank: must be at least 1"),
    ([BOOT, "train.student_steps=4"], r"train.student_steps: must be 1 for the objective boot, not 4"),
    (
        ["train.student_steps=4", "backbones.pixart.start_timestep=6"],
        r"start_timestep 6 of 'pixart': too small",
    ),
]


@pytest.mark.parametrize(("overrides", "pattern"), REFUSED, ids=str)
def test_inconsistent_settings_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], pattern: str
) -> None:
    options = [each for override in overrides for each in ("--set", override)]
    storage = ["--storage", str(tmp_path / "out")]
    refused(capsys, pattern, written(tmp_path, SWEEP), *options, *storage)


def test_memory_depends_on_the_objective(tmp_path: Path) -> None:
    """BOOT has no adapter; a CLIP loss decodes images and encodes them; a student's adapter saves moments."""
    arms = {"pgsb": [], "boot": [BOOT], "clip": [CLIP], "lora": ["train.student_lora={rank: 4}"]}
    found = {}
    for name, overrides in arms.items():
        planned = plan(tmp_path, *overrides)
        needs = worker_needs(planned, planned.trials[0])
        assert needs is not None
        found[name] = needs
    assert found["clip"].bytes > found["pgsb"].bytes > found["lora"].bytes
    assert found["clip"].tflop > found["pgsb"].tflop != found["boot"].tflop


def test_plan_shows_steps_of_students(tmp_path: Path) -> None:
    """A training of N steps calls the student N - 1 times more at most, (N - 1) / 2 times on average."""
    planned = plan(tmp_path, "train.student_steps={values: [1, 2, 4]}")
    shown = describe_plan(planned, "", "").splitlines()
    assert shown[1].split()[-1] == "calls"
    assert [line.split()[-1] for line in shown[2:5]] == ["1", "2", "4"]
    assert ["-2steps-" in line for line in shown[2:5]] == [False, True, False]
    assert "calls" not in describe_plan(plan(tmp_path), "", "")
    one, two, four = (worker_needs(planned, trial) for trial in planned.trials)
    assert one is not None and two is not None and four is not None
    assert four.tflop - one.tflop == pytest.approx(3 * (two.tflop - one.tflop), rel=0.01)
    assert one.bytes == pytest.approx(four.bytes, rel=0.02)


def test_shipped_features_are_for_miniatures_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another backbone's latents may have the same form; a file that is named is taken."""
    other = shutil.copytree(WEIGHTS / "pixart", tmp_path / "teacher")
    asked = [REGRESSION, f"backbones.pixart.model={other}"]
    options = [each for override in asked for each in ("--set", override)]
    pattern = "knows the miniatures' latents alone: name a file of LatentFeatures"
    refused(capsys, pattern, written(tmp_path), *options, "--storage", str(tmp_path / "out"))
    named = plan(tmp_path, *asked, f"train.features={features_file(FEATURES)}")
    check_backbones(named)
