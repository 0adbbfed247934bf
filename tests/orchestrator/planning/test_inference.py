"""Plan of the second search: strengths add no training, and mistakes are one line."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.plan import Plan, make_plan, max_concurrent_inference_trials
from workloads.settings.train import AttentionGuidanceSettings

SWEEP = """name: tiny
prompts: {source: "miniature:64"}
backbones:
  - {name: pixart, model: miniature/pixart}
train:
  guidance_interval: {values: [[1, 3], [2, 2]]}
  steps: 10
evaluate:
  sheet_prompts: [a circle]
infer:
  attention_guidance:
    - {kind: nasa, strength: {values: [0.5, 1]}}
    - {kind: nag, strength: {min: 1, max: 4}}
    - {kind: nag, clip: 0, blend: 1, strength: 0.5}
  scorers: [removal]
  pictures: 4
  pairs:
    - {prompt: a circle, negative_prompt: red}
search: {samples: 3}
"""


def plan(folder: Path, text: str = SWEEP, overrides: list[str] | None = None) -> Plan:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return make_plan(load_sweep(path, overrides or []))


def test_strengths_make_inference_trials_only(tmp_path: Path) -> None:
    found = plan(tmp_path)
    assert found.infer is not None and len(found.trials) == 2
    arms = found.infer.arms
    assert arms[0] == AttentionGuidanceSettings() and len(arms) == 1 + 2 + 3 + 1
    drawn = [arm.strength for arm in arms if arm.label == "nag"]
    assert drawn == sorted(drawn) and all(1 <= strength <= 4 for strength in drawn) and len(set(drawn)) == 3
    assert arms[-1].label == "extrapolation"
    names = {job.digest for trial in found.trials for job in found.infer_trials(trial)}
    assert len(names) == 14
    text = describe_plan(found, "x", "y")
    assert "14 inference trials" in text
    assert "trainings: 2 and about" in text and "would be 14 trainings" in text


def test_new_strength_keeps_other_digests(tmp_path: Path) -> None:
    before = plan(tmp_path)
    after = plan(tmp_path, SWEEP.replace("[0.5, 1]", "[0.5, 0.75, 1]"))
    assert [trial.digest for trial in before.trials] == [trial.digest for trial in after.trials]
    old, new = ({job.digest for job in p.infer_trials(p.trials[0])} for p in (before, after))
    assert old < new and len(new - old) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("strength: 0.5", "strength: 0", "the plain student, always sampled"),
        ("[0.5, 1]", "[0.5, 0.5]", "0.5 is listed twice"),
        ("[0.5, 1]", "[-1]", "must be at least 0"),
        ("clip: 0, blend: 1,", "clip: 0, blend: 2,", "blend: must be above 0"),
        ("kind: nasa,", "kind: nasa, clip: 3,", "settings of nag, not of nasa"),
        ("kind: nasa", "kind: nase", "should be 'nasa', 'nag' or 'vsf'"),
        ("scorers: [removal]", "scorers: [remove]", "'removal'"),
        ("scorers: [removal]", "scorers: [{name: hpsv2}]", "needs its version"),
        ("scorers: [removal]", "scorers: [{name: removal, version: v2.1}]", "has no option version"),
        ("negative_prompt: red", "negative: red", "the nearest valid one is 'negative_prompt'"),
        ("pictures: 4", "pictures: 0", "greater than 0"),
        ("steps: 10", "nasa_interval: [0, 1]", "add a section negative_prompts"),
        ("steps: 10", "nasa_interval: [1, 0]", "needs 0 <= low <= high"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        plan(tmp_path, SWEEP.replace(old, new, 1))
    text = str(error.value)
    assert message in text and "sweep.yaml:" in text and "\n" not in text


def test_inference_trials_leave_cpus_to_trainings(tmp_path: Path) -> None:
    found = plan(tmp_path)
    # Two trainings of 0.85 CPUs leave 0.3 of 2: an inference trial and a scorer.
    assert max_concurrent_inference_trials(found, 2, 0, 2) == 1
    assert max_concurrent_inference_trials(found, 2, 0, 0) == 2
    assert max_concurrent_inference_trials(found, 16, 0, 4) == 16
    gpu = plan(tmp_path, overrides=["infer.gpus=1"])
    assert max_concurrent_inference_trials(gpu, 16, 4, 0) == 5


def test_pairs_from_a_file(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        '{"prompt": "a cat", "negative_prompt": "dog", "style": "photo"}\n\n'
        '{"prompt": "b", "negative_prompt": "c"}\n'
    )
    text = SWEEP[: SWEEP.index("  pairs:")] + f"  pairs: {pairs}\nsearch: {{samples: 3}}\n"
    found = plan(tmp_path, text)
    assert found.infer is not None
    assert [(p.prompt, p.style) for p in found.infer.pairs] == [("a cat", "photo"), ("b", "")]
    pairs.write_text('{"prompt": "a cat"}\n')
    with pytest.raises(
        UserError, match=r"pairs\.jsonl:1: negative_prompt: .*; write one JSON object per line"
    ):
        plan(tmp_path, text)
    pairs.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        plan(tmp_path, text)


SCALES = """name: tiny
prompts: {source: "miniature:64"}
backbones:
  - {name: pixart, model: miniature/pixart}
train:
  guidance_interval: [1, 7.5]
  guidance_input: {values: [true, false]}
  steps: 10
evaluate:
  scorers: [attributes]
  sheet_prompts: [a circle]
infer:
  guidance_scale: {values: [1, 3, 7.5]}
"""
STRENGTHS = """  attention_guidance:
    - {kind: nag, strength: 1}
  scorers: [removal]
  pairs:
    - {prompt: a circle, negative_prompt: red}
"""


def test_scales_are_drawn_of_students_that_read_theirs(tmp_path: Path) -> None:
    found = plan(tmp_path, SCALES)
    reading, other = found.trials
    assert reading.name.startswith("pixart-reads-k1-7.5-s0-") and other.name.startswith("pixart-k1-7.5-s0-")
    assert [job.scale for job in found.infer_trials(reading)] == [1, 3, 7.5]
    assert all(job.scores_scale for job in found.infer_trials(reading)) and not found.infer_trials(other)
    assert "1 trainings, where students of one fixed scale take 3" in describe_plan(found, "x", "y")


def test_every_strength_is_tried_at_every_scale(tmp_path: Path) -> None:
    found = plan(tmp_path, SCALES + STRENGTHS)
    reading, other = (found.infer_trials(trial) for trial in found.trials)
    assert [(job.scale, job.guidance.strength) for job in reading] == [
        (scale, strength) for scale in (1, 3, 7.5) for strength in (0, 1)
    ]
    assert [(job.scale, job.guidance.strength) for job in other] == [(None, 0), (None, 1)]
    assert len({job.digest for job in (*reading, *other)}) == 8


def test_scales_outside_of_the_interval_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"8 is outside of the interval 1-7\.5"):
        plan(tmp_path, SCALES.replace("[1, 3, 7.5]", "[1, 8]"))
