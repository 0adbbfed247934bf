"""Curves over strength: what counts as removed, what it cost, and which strength is best."""

import pandas as pd
import pytest

from orchestrator.evaluation.strength_curve import Measured, best, best_scale, curve
from orchestrator.reporting.rows import ArmRow, TrialRow
from orchestrator.reporting.strength_figures import curve_figure, map_figure
from workloads.scorers.score import Score, mean, share
from workloads.settings.scorers import ScorerSettings
from workloads.settings.train import AttentionGuidanceSettings

PLAIN = AttentionGuidanceSettings()


def table(shown: list[float], hits: list[int]) -> pd.DataFrame:
    """Two pairs of five pictures; each prompt asks for two attributes."""
    rows = range(len(shown))
    return pd.DataFrame(
        {
            "row": list(rows),
            "pair": [row // 5 for row in rows],
            "prompt": [f"p{row // 5}" for row in rows],
            "negative_prompt": [f"n{row // 5}" for row in rows],
            "style": "",
            "removal/negative_shown": shown,
            "removal/asked": [hit / 2 for hit in hits],
            "removal/asked_hits": hits,
            "removal/asked_count": [2] * len(shown),
        }
    )


def test_removal_counts_where_the_plain_student_errs() -> None:
    plain = table([1, 1, 1, 1, 0, 1, 0, 0, 0, 0], [2] * 10)
    guided = table([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [2] * 8 + [1, 1])
    arms = curve(
        [Measured(PLAIN, None, plain), Measured(AttentionGuidanceSettings("nasa", 1.0), None, guided)],
        [ScorerSettings("removal")],
    )
    removal = arms[1].score("removal_rate")
    # The first pair is shown in 4 of 5 and counts: 3 of those 4 are gone. The second, 1 of 5, does not.
    assert removal is not None and (removal.value, removal.samples) == (0.75, 4)
    assert arms[0].value("removal_rate") == 0.0
    lost = arms[1].score("accuracy_lost")
    assert lost is not None and lost.value == pytest.approx(0.1) and lost.low < 0.1 < lost.high
    assert arms[1].value("negative_rate") == 0.7
    assert [pair.negative_rate for pair in arms[1].pairs] == [0.4, 1.0]


def arm(kind: str, strength: float, removal: float, lost: float) -> ArmRow:
    settings = AttentionGuidanceSettings(kind, strength)  # type: ignore[arg-type]
    scores = (share("removal_rate", round(100 * removal), 100, "p"), mean("accuracy_lost", [lost], "p"))
    return ArmRow(settings, scores)


def test_the_best_arm_removes_most_at_an_allowed_cost() -> None:
    plain = arm("none", 0.0, 0.0, 0.0)
    weak, good, strong = arm("nasa", 0.5, 0.6, 0.0), arm("nasa", 1.0, 0.9, 0.04), arm("nasa", 2.0, 1.0, 0.2)
    assert best([plain, weak, good, strong], 0.05) is good
    assert best([plain, weak, good, strong], 0.01) is weak
    assert best([plain, strong], 0.05) is plain
    equal = arm("nag", 4.0, 0.9, 0.0)
    assert best([plain, equal, good], 0.05) is good


def trial_row(interval: str, curve: list[ArmRow]) -> TrialRow:
    return TrialRow(
        trial="t", digest="d", backbone="unet", interval=interval, seed=0, status="finished", note="",
        metric=None, score=None, score_low=None, score_high=None, teacher_score=None, scores=(),
        teacher_scores=(), train_seconds=1.0, settings={}, run="", model="", champion=False,
        curve=tuple(curve), best=None, checkpoint="", checkpoint_sha256="", zero_stage=2,
    )  # fmt: skip


def test_plots_show_what_was_measured() -> None:
    arms = [arm("none", 0.0, 0.0, 0.0), arm("nasa", 0.5, 0.6, 0.0), arm("nag", 2.0, 0.4, 0.0)]
    figure = curve_figure(arms, "title")
    assert figure is not None
    lines = {container.get_label(): container for container in figure.axes[0].containers}
    assert set(lines) == {"nasa", "nag"}
    assert lines["nasa"].lines[0].get_ydata().tolist() == [0.0, 0.6]
    heat = map_figure([trial_row("1-5", arms)])
    assert heat is not None
    assert heat.axes[0].images[0].get_array().tolist() == [[0.0, 60.0, 40.0]]
    assert map_figure([trial_row("3", [])]) is None


def test_unmeasured_scores_are_none() -> None:
    assert ArmRow(PLAIN, (Score("m", 1.0, 1, 1.0, 1.0, "p"),), ()).score("removal_rate") is None


def test_arms_are_compared_at_their_own_scale() -> None:
    shown, gone = table([1] * 10, [2] * 10), table([0] * 10, [2] * 10)
    nasa = AttentionGuidanceSettings("nasa", 1.0)
    measured = [Measured(PLAIN, 1.0, shown), Measured(nasa, 1.0, gone)]
    measured += [Measured(PLAIN, 3.0, gone), Measured(nasa, 3.0, gone)]
    arms = curve(measured, [ScorerSettings("removal")])
    assert [arm.scale for arm in arms] == [1.0, 1.0, 3.0, 3.0]
    assert arms[1].value("removal_rate") == 1.0
    assert arms[3].score("removal_rate") is None  # nothing is shown that could be removed


def test_the_best_scale_has_the_highest_score() -> None:
    measured = [
        Measured(PLAIN, scale, None, (share("attribute_accuracy", hits, 100, "p"),))
        for scale, hits in ((1.0, 90), (2.0, 95), (3.0, 93))
    ]
    arms = curve(measured, [])
    assert best_scale(arms, "attribute_accuracy") == 2.0
    assert best_scale(arms, "clip_plus") == 2.0  # the middle one: it was not measured
    assert best_scale(curve([Measured(PLAIN, None, None)], []), "attribute_accuracy") is None
    assert ArmRow.from_json(arms[1].to_json()) == arms[1]
