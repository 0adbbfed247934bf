"""The tag that chooses columns, order and charts of MLflow's pages."""

import json

from orchestrator.tracking.ui_view import view


def test_the_view_is_sorted_by_the_ranking_score() -> None:
    shown = json.loads(view("hps_v2.1"))
    assert shown["orderByKey"] == shown["selectedColumns"][0] == "metrics.`hps_v2.1`"
    assert r"hps_v2\.1" in shown["chartsSearchFilter"]
    assert not any("hps" in column for column in json.loads(view(None))["selectedColumns"])
