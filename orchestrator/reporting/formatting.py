"""Names and numbers as tables, log lines and plots show them."""

from orchestrator.config.ranking import STRENGTH_METRICS, first_measured
from orchestrator.reporting.rows import ArmRow

NAMES = {"attribute_accuracy": "accuracy", "hps_v2.1": "HPSv2.1", "hps_v2.0": "HPSv2.0", "clip_plus": "CLIP+"}
"""Display name of each metric that can rank trials."""


def is_share(metric: str) -> bool:
    """Return true if the metric is a share, which is shown in per cent."""
    return metric == "attribute_accuracy"


def format_value(metric: str, value: float) -> str:
    """Format a value of `metric`, with its unit."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4f}"


def network_calls(student_steps: int) -> str:
    """Return the number of network calls in which a student draws, in words."""
    return f"{student_steps} call{'s' if student_steps > 1 else ''}"


def describe_arm(arm: ArmRow) -> str:
    """Format an arm's name with its removal rate, or with the score that ranks it."""
    removal, metric = arm.score("removal_rate"), first_measured(STRENGTH_METRICS, arm.metrics)
    name = (
        arm.name if arm.scale is None else f"scale {arm.scale:g}" + ("" if arm.is_plain else f", {arm.name}")
    )
    if removal is not None:
        return f"{name}: {100 * removal.value:.0f} % removed"
    return f"{name}: {NAMES[metric]} {format_value(metric, arm.value(metric))}" if metric else name
