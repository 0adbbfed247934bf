"""The appearance of a sweep on MLflow's pages, set by tags of its experiment.

MLflow by itself opens an experiment as one of language-model traces, folds all trials below their parent, and
draws charts of unfolded runs only. The address that a launch prints selects the pages for model training
(MLflow 3.17 has no tag for that) and the view, which sorts by a metric, unfolds the trials, and chooses
columns and charts. The view is the tag that the button "share view" writes.
"""

import json
import re

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment for model training; MLflow 3.17 stores it, and chooses the pages by the address."""
NAME = "trials"
QUERY = f"viewStateShareKey={NAME}&workflowType=machine_learning"
"""Query of the page's address: the view, and the pages for model training."""
VIEW_TAG = f"mlflow.sharedViewState.{NAME}"
CHARTS = (".*_loss", "score_gap", "latent_spread", "seconds_per_step", "sheet")
"""Patterns of the metrics that are charted at first, beside the metric that trials are ranked by."""
COLUMNS = (
    "params.`backbone`", "params.`guidance_interval`", "params.`seed`",
    "tags.`status`", "tags.`best_guidance`", "tags.`best_strength`", "attributes.`Duration`",
)  # fmt: skip


def experiment_tags(metric: str | None) -> dict[str, str]:
    """Return the tags of a sweep's experiment; `metric` ranks its trials, if there is one."""
    return {**KIND, VIEW_TAG: view(metric)}


def view(metric: str | None) -> str:
    """Return the view as JSON: trials by `metric`, the swept settings, the results, the curves of ten.

    Without a metric the trials are sorted by the student's loss, which unfolds them all the same.
    """
    ranking = [] if metric is None else [metric]
    return json.dumps(
        {
            "orderByKey": f"metrics.`{metric or 'student_loss'}`",
            "orderByAsc": False,
            "selectedColumns": (*(f"metrics.`{name}`" for name in ranking), *COLUMNS),
            "chartsSearchFilter": f"^({'|'.join([*map(re.escape, ranking), *CHARTS])})$",
        }
    )
