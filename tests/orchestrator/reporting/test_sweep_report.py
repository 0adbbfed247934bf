"""The report: one file, every plot's numbers in tables, nothing fetched, nothing injected."""

import re
from typing import Any

from orchestrator.reporting.sweep_report import report

COUNTED = {"samples": 50, "protocol": "p"}
SCORE = {
    "metric": "attribute_accuracy",
    "value": 0.9,
    "samples": 50,
    "low": 0.8,
    "high": 0.95,
    "protocol": "p",
}
REMOVAL = {"metric": "removal_rate", "value": 0.75, "low": 0.5, "high": 0.9, **COUNTED}


def arm(kind: str, strength: float) -> dict[str, Any]:
    pairs = [{"prompt": "a <circle>", "negative_prompt": "red", "negative_rate": 0.25}]
    return {"label": kind, "kind": kind, "strength": strength, "scores": [REMOVAL], "pairs": pairs}


def result() -> dict[str, Any]:
    row = {
        "trial": "unet-k3", "backbone": "unet", "interval": "3", "seed": 0, "status": "finished",
        "train_seconds": 12.0, "champion": True, "scores": [SCORE], "teacher_scores": [SCORE],
        "curve": [arm("none", 0.0), arm("nasa", 1.0)], "best": arm("nasa", 1.0),
    }  # fmt: skip
    return {
        "name": "demo", "launch": "abc", "seconds": 3.0, "infer_trials": 2,
        "prompts": {"used": 5}, "trials": [row],
    }  # fmt: skip


def test_the_page_stands_alone_and_holds_the_numbers_of_its_plots() -> None:
    page = report(result(), {"unet-k3": b"\x89PNG"}, {"unet-k3": b"\x89PNG2"})
    assert not re.search(r"(src|href)=['\"]?(http|//|/)", page) and "<script" not in page
    assert page.count("data:image/png;base64,") == 4
    assert "0.900 (0.800 to 0.950; n 50)" in page and "0.750 (0.500 to 0.900; n 50)" in page
    assert "a &lt;circle&gt;; not: red" in page and "<circle>" not in page
    assert "0.25" in page


def test_a_sweep_without_a_second_search_has_a_page_too() -> None:
    plain = result()
    plain["trials"][0] |= {"curve": [], "best": {}}
    page = report(plain, {}, {})
    assert "Students beside their teachers" in page and "over strength" not in page
