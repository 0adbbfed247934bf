"""Map of the stable regions of a study's arms, as part of a page."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import pyplot as plt

from orchestrator.analysis.rows import AreaRow, RegionCellRow, StabilityRow
from orchestrator.analysis.stability import DEFINITION
from orchestrator.reporting.html import image, table
from orchestrator.reporting.strength_figures import as_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def stability_parts(row: StabilityRow | None) -> list[str]:
    """Return heading, map and tables as HTML; nothing without a map."""
    if row is None:
        return []
    first, second = (name.replace("_", " ") for name in row["settings"])
    lines = [
        [c["arm"], c["backbone"], *(f"{v:g}" for v in c["values"]), f"{c['failed']} of {c['trainings']}",
         "" if c["accuracy"] is None else f"{c['accuracy']:.3f}"]
        for c in row["cells"]
    ]  # fmt: skip
    return [
        "<h2>Stable regions</h2>",
        f"<p>{html.escape(DEFINITION)}</p>",
        image(stability_png(row)),
        "<p class='note'>Trainings that failed, of all; below it, their mean accuracy.</p>",
        table(["arm", "area", "95 % interval"], [_area(area) for area in row["areas"]]),
        "<details><summary>Every combination</summary>",
        table(["arm", "backbone", first, second, "failed", "mean accuracy"], lines),
        "</details>",
    ]


def _area(area: AreaRow) -> list[str]:
    low, high = area["low"], area["high"]
    interval = "one seed" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return [area["arm"], f"{area['value']:.2f}", interval]


def stability_png(row: StabilityRow) -> bytes:
    """Plot the share of failed trainings: a panel for each backbone (rows) and arm (columns)."""
    cells = row["cells"]
    backbones = list(dict.fromkeys(cell["backbone"] for cell in cells))
    arms = list(dict.fromkeys(cell["arm"] for cell in cells))
    figure, grid = plt.subplots(
        len(backbones), len(arms), figsize=(1.5 + 2.9 * len(arms), 0.6 + 2.5 * len(backbones)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    axes_of = {(b, a): grid[i][j] for i, b in enumerate(backbones) for j, a in enumerate(arms)}
    ticks = [sorted({cell["values"][axis] for cell in cells}) for axis in (0, 1)]
    for (backbone, arm), axes in axes_of.items():
        own = [cell for cell in cells if (cell["backbone"], cell["arm"]) == (backbone, arm)]
        _panel(axes, own, ticks)
        axes.set_title(f"{backbone}, {arm}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel(row["settings"][0].replace("_", " "))
    for line in grid:
        line[0].set_ylabel(row["settings"][1].replace("_", " "))
    return as_png(figure)


def _panel(axes: "Axes", cells: Sequence[RegionCellRow], ticks: Sequence[Sequence[float]]) -> None:
    shares = [[float("nan")] * len(ticks[0]) for _ in ticks[1]]
    for cell in cells:
        x, y = (ticks[axis].index(cell["values"][axis]) for axis in (0, 1))
        shares[y][x] = cell["failed"] / cell["trainings"]
        accuracy = "" if cell["accuracy"] is None else f"\n{100 * cell['accuracy']:.0f} %"
        colour = "white" if shares[y][x] > 0.6 else "black"
        text = f"{cell['failed']}/{cell['trainings']}{accuracy}"
        axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=9)
    axes.imshow(shares, cmap="Reds", vmin=0, vmax=1, origin="lower", aspect="auto")
    axes.set_xticks(range(len(ticks[0])), [f"{value:g}" for value in ticks[0]])
    axes.set_yticks(range(len(ticks[1])), [f"{value:g}" for value in ticks[1]])
