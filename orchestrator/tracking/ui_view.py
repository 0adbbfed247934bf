"""How MLflow's pages show a sweep: a view of ours, which is kept with the experiment.

By itself MLflow folds all trials below their parent, and draws the charts of what is not folded: of a
sweep one line and its machine's load. Pages sorted by a metric unfold them; our view does so, and
chooses columns and charts. It is a tag of the experiment, as the button that shares a view makes them;
the address names it.
"""

import json
import re

NAME = "trials"
QUERY = f"viewStateShareKey={NAME}"
"""Of a page's address."""
VIEW_TAG = f"mlflow.sharedViewState.{NAME}"
"""Of the experiment."""
CHARTS = (".*_loss", "score_gap", "latent_spread", "seconds_per_step", "sheet")
"""Patterns of what is drawn at first, beside the metric that trials are ranked by."""
COLUMNS = (
    "params.`backbone`", "params.`guidance_interval`", "params.`seed`",
    "tags.`status`", "tags.`best_guidance`", "tags.`best_strength`", "attributes.`Duration`",
)  # fmt: skip


def view(metric: str | None) -> str:
    """The tag's value: trials by `metric`, what was swept beside what came of it, the curves of ten.

    Without one the trials stand as they come, unfolded all the same.
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
