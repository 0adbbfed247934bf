"""Pods over time, by group, with marks of what happened.

The tests draw what they have seen into the file $AUTOSCALING_FIGURE, one panel below the other:

    AUTOSCALING_FIGURE=infra/kubernetes/autoscaling.png \\
        python -m pytest tests/infra/autoscaling -m slow -k 'two_trials or sold_out'
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tests.infra.autoscaling.cluster import Counts

History = Sequence[tuple[float, Counts]]
COLOURS = {"gpu-spot": "tab:blue", "gpu-on-demand": "tab:orange", "cpu": "tab:green"}
ROOM, BRIEF = 35, 1
"""Seconds after the last mark, for its name; and that a state lasts at most and is not drawn."""
_panels: dict[str, tuple[History, Mapping[str, float]]] = {}


def keep(title: str, history: History, marks: Mapping[str, float]) -> None:
    """Adds a panel; `marks`: what was when, the first of them being the zero of time."""
    _panels[title] = (history, marks)
    if "AUTOSCALING_FIGURE" in os.environ:
        _draw(Path(os.environ["AUTOSCALING_FIGURE"]))


def _draw(path: Path) -> None:
    figure, axes = plt.subplots(len(_panels), 1, figsize=(9, 2.5 * len(_panels)), squeeze=False)
    for axis, (title, (history, marks)) in zip(axes[:, 0], _panels.items(), strict=True):
        _panel(axis, history, marks)
        axis.set_title(title, fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("seconds since the job was submitted")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _panel(axis: plt.Axes, history: History, marks: Mapping[str, float]) -> None:
    began, end = next(iter(marks.values())), max(marks.values()) + ROOM
    times = [at - began for at, _ in history] + [end - began]
    top = 1
    for name, colour in COLOURS.items():
        for state, style in ((name, "-"), (f"{name} pending", ":")):
            counts = [found.get(state, 0) for _, found in history]
            lasted = sum(b - a for a, b, count in zip(times, times[1:], counts, strict=False) if count)
            if lasted > BRIEF:
                axis.step(times, [*counts, counts[-1]], style, where="post", color=colour, label=state)
                top = max(top, *counts)
    for number, (name, at) in enumerate(marks.items()):
        axis.axvline(at - began, color="0.6", linewidth=0.8)
        axis.text(at - began, top + 0.65 - 0.3 * (number % 2), f" {name}", fontsize=8)
    axis.set(xlim=(-2, end - began), ylim=(0, top + 1), yticks=range(top + 1), ylabel="pods")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
