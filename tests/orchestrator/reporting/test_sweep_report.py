"""The report: one file, every plot's numbers in tables, no network, no injected HTML."""

import re
from dataclasses import replace

from orchestrator.reporting.rows import ArmRow, PairRow, SweepSummary, TrialRow
from orchestrator.reporting.sweep_report import sweep_report
from workloads.scorers.score import Score
from workloads.settings.train import AttentionGuidanceSettings

SCORE = Score("attribute_accuracy", 0.9, 50, 0.8, 0.95, "p")
REMOVAL = Score("removal_rate", 0.75, 50, 0.5, 0.9, "p")
PLAIN, NASA = AttentionGuidanceSettings(), AttentionGuidanceSettings("nasa", 1.0)


def arm(guidance: AttentionGuidanceSettings) -> ArmRow:
    return ArmRow(guidance, (REMOVAL,), (PairRow("a <circle>", "red", 0.25),))


ROW = TrialRow(
    trial="unet-k3", digest="d", backbone="unet", interval="3", seed=0, status="finished", note="",
    metric="attribute_accuracy", score=0.9, score_low=0.8, score_high=0.95, teacher_score=0.95,
    scores=(SCORE,), teacher_scores=(SCORE,), train_seconds=12.0, settings={}, run="run", model="m",
    champion=True, curve=(arm(PLAIN), arm(NASA)), best=arm(NASA), checkpoint="", checkpoint_sha256="",
    zero_stage=2,
)  # fmt: skip


def summary(row: TrialRow) -> SweepSummary:
    return SweepSummary("demo", "abc", 3.0, (), 0.0, None, "", {"used": 5}, {}, (row,))


def test_the_page_needs_no_network_and_has_all_numbers() -> None:
    page = sweep_report(summary(ROW), {"unet-k3": b"\x89PNG"}, {"unet-k3": b"\x89PNG2"})
    assert not re.search(r"(src|href)=['\"]?(http|//|/)", page) and "<script" not in page
    assert page.count("data:image/png;base64,") == 4
    assert "0.900 (0.800 to 0.950; n 50)" in page and "0.750 (0.500 to 0.900; n 50)" in page
    assert "a &lt;circle&gt;; not: red" in page and "<circle>" not in page
    assert "0.25" in page


def test_a_sweep_without_a_second_search_has_a_page() -> None:
    page = sweep_report(summary(replace(ROW, curve=(), best=None)), {}, {})
    assert "Students beside their teachers" in page and "over strength" not in page


def at_scale(scale: float, accuracy: float) -> ArmRow:
    return ArmRow(PLAIN, scale=scale, at_scale=(replace(SCORE, value=accuracy),))


def test_students_that_read_their_scale_have_a_curve_beside_fixed_ones() -> None:
    curve = (at_scale(1.0, 0.85), at_scale(3.0, 0.93))
    settings = {"guidance_input": True, "guided": "teacher"}
    reading = replace(ROW, trial="reads", interval="1-7.5", settings=settings, curve=curve, best=curve[1])
    fixed = replace(ROW, curve=(), best=None)
    both = replace(summary(ROW), trials=(reading, fixed))
    page = sweep_report(both, {}, {}, {"reads": b"\x89PNG"})
    assert "Students by guidance scale" in page and "over strength" not in page
    for cells in (("reads the scale", "1", "1", "0.850"), ("reads the scale", "3", "1", "0.930"),
                  ("fixed scale", "3", "1", "0.900")):  # fmt: skip
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page, cells
    assert page.count("data:image/png;base64,") == 2


def test_scales_multiply_the_map_of_strengths() -> None:
    curve = tuple(replace(arm(guidance), scale=scale) for scale in (1.0, 3.0) for guidance in (PLAIN, NASA))
    page = sweep_report(summary(replace(ROW, curve=curve, best=curve[3])), {}, {})
    assert "<td>unet</td><td>1</td><td>0.750</td>" in page and "<td>unet</td><td>3</td>" in page
    assert "The strength that each student uses by default" in page
