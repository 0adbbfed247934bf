"""Stable regions: which trainings fail, each arm's area, and when there is a map."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from orchestrator.analysis.seed_study import study
from orchestrator.analysis.stability import failed, stability
from orchestrator.analysis.training import Training
from orchestrator.reporting.stability_map import stability_png
from orchestrator.reporting.study_report import study_parts


def training(
    arm: str, rate: str, fake: str, seed: int, accuracy: float | None, status: str = "finished"
) -> Training:
    settings = {"arm": arm, "learning_rate": rate, "fake_score_learning_rate": fake, "steps": "60"}
    histories = {} if accuracy is None else {"attribute_accuracy": [0.99, accuracy]}
    return Training("t", "x", seed, settings, status, histories)


def grid(arm: str, limits: tuple[int, ...]) -> list[Training]:
    """Four combinations, of which the first `limits[seed]` end at 90 % and the others at 70 %."""
    places = [(rate, fake) for rate in ("1e-3", "0.01") for fake in ("2e-3", "0.02")]
    return [
        training(arm, *place, seed, 0.9 if number < limit else 0.7)
        for seed, limit in enumerate(limits)
        for number, place in enumerate(places)
    ]


ROWS = [*grid("fixed", (2, 2, 4)), *grid("random", (4, 4, 4))]


@pytest.mark.parametrize(
    "accuracy, status, expected",
    [
        (0.79, "finished", True), (0.8, "finished", False), (0.9, "collapsed", True),
        (None, "collapsed", True), (None, "finished", True), (math.nan, "finished", True),
    ],
)  # fmt: skip
def test_a_training_fails(accuracy: float | None, status: str, expected: bool) -> None:
    """The last accuracy decides, not the 99 % of the evaluation before."""
    assert failed(training("a", "1", "1", 0, accuracy, status)) is expected


def test_area_is_the_share_of_stable_combinations() -> None:
    """Per seed 1/2, 1/2, 1: mean 2/3, and Student's t of two degrees of freedom, 4.3027 s / sqrt(3)."""
    found = stability(ROWS)
    assert found is not None
    fixed, random = found["areas"]
    half = 4.302653 * math.sqrt(1 / 12) / math.sqrt(3)
    assert [fixed["value"], fixed["low"], fixed["high"]] == pytest.approx([2 / 3, 2 / 3 - half, 2 / 3 + half])
    assert [random["value"], random["low"], random["high"]] == [1, 1, 1]


def test_cells_count_failures_in_numeric_order() -> None:
    found = stability(ROWS)
    assert found is not None and found["settings"] == ["learning_rate", "fake_score_learning_rate"]
    own = [cell for cell in found["cells"] if cell["arm"] == "fixed"]
    assert [cell["values"] for cell in own] == [[0.001, 0.002], [0.001, 0.02], [0.01, 0.002], [0.01, 0.02]]
    assert [(cell["failed"], cell["trainings"]) for cell in own] == [(0, 3), (0, 3), (2, 3), (2, 3)]
    assert own[2]["accuracy"] == pytest.approx((0.7 + 0.7 + 0.9) / 3)


def test_arm_that_lacks_a_training_has_no_area() -> None:
    """Its missing trainings may be those that would have failed."""
    found = stability(ROWS[:-1])
    assert found is not None and [area["arm"] for area in found["areas"]] == ["fixed"]


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [training("a", rate, "1", 0, 0.9) for rate in ("1", "2")],
        [training("", rate, fake, 0, 0.9) for rate in ("1", "2") for fake in ("1", "2")],
        [training("a", rate, fake, 0, 0.9) for rate in ("1", "2") for fake in ("1", "auto")],
        [training("a", rate, fake, 0, None) for rate in ("1", "2") for fake in ("1", "2")],
    ],
    ids=["nothing", "one setting", "no arms", "no number", "no accuracy"],
)
def test_no_map(rows: list[Training]) -> None:
    assert stability(rows) is None
    assert rows == [] or "stability" not in study(rows)


def test_page_shows_map_and_areas() -> None:
    found = study(ROWS)
    page = "".join(study_parts(found))
    assert "<h2>Stable regions</h2>" in page and "<td>fixed</td><td>0.67</td>" in page
    assert stability_png(found["stability"])[:4] == b"\x89PNG"
    one = "".join(study_parts(study([each for each in ROWS if each.seed == 0])))
    assert "<td>random</td><td>1.00</td><td>one seed</td>" in one


def test_map_is_redder_where_more_failed() -> None:
    """The panel of an arm that always fails against that of one that never does, in one picture."""
    found = stability([*grid("fixed", (0, 0, 0)), *grid("random", (4, 4, 4))])
    assert found is not None
    pixels = np.asarray(Image.open(io.BytesIO(stability_png(found))).convert("RGB")).astype(float)
    red = pixels[..., 0] - pixels[..., 1]
    left, right = red[:, : red.shape[1] // 2], red[:, red.shape[1] // 2 :]
    assert (left > 60).mean() > 0.2 and (right > 60).mean() < 0.05
