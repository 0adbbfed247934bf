"""A table of all trials with progress bars, redrawn in place on a terminal."""

import math
import time
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.results.record import TrialRecord

BAR_WIDTH = 24
MAX_ROWS = 30
"""Rows of the table; running trials come first, the rest is counted below."""
STYLES = {"running": "cyan", "finished": "green", "failed": "red", "collapsed": "yellow", "stopped": "yellow"}
"""Colour of each status."""


class LiveTable:
    """The table; log lines that are printed meanwhile appear above it."""

    def __init__(self, metric: str | None) -> None:
        """Create the table, with scores of `metric`; it appears with the first `show`."""
        self._metric = metric
        self._live = Live(auto_refresh=False, vertical_overflow="crop")

    def show(self, records: Sequence[TrialRecord], footer: str) -> None:
        """Draw the table of `records`, with a line below it."""
        if not self._live.is_started:
            self._live.start()
        self._live.update(Group(trials_table(records, self._metric), Text(footer, style="dim")), refresh=True)

    def close(self) -> None:
        """Stop redrawing; the last table stays on the screen."""
        self._live.stop()


def trials_table(records: Sequence[TrialRecord], metric: str | None) -> Table:
    """Return the table: trial, status, progress, steps, rate, time left or taken, score of `metric`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    # On a narrow terminal the columns that may wrap give way first: names are cut and bars get shorter.
    for head, fixed in (("trial", False), ("status", True), ("progress", False)):
        table.add_column(head, no_wrap=fixed, min_width=8)
    for head in ("step", "steps/s", "time", "score"):
        table.add_column(head, no_wrap=True, justify="right")
    ordered = sorted(records, key=lambda record: record.status != "running")
    for record in ordered[:MAX_ROWS]:
        table.add_row(*_cells(record, metric))
    if len(ordered) > MAX_ROWS:
        table.add_row(Text(f"... and {len(ordered) - MAX_ROWS} more", style="dim"))
    return table


def _cells(record: TrialRecord, metric: str | None) -> tuple[Text | ProgressBar, ...]:
    steps = record.trial.train.steps
    bar = ProgressBar(total=steps, completed=record.step, width=BAR_WIDTH)
    status = Text(record.status, style=STYLES.get(record.status, "dim"))
    step, score = Text(f"{record.step}/{steps}"), Text(record.describe_score(metric))
    name = Text(record.name, no_wrap=True, overflow="ellipsis")
    return name, status, bar, step, *_speed(record, steps), score


def _speed(record: TrialRecord, steps: int) -> tuple[Text, Text]:
    if record.status != "running":
        return Text(""), Text(f"{record.train_seconds:.0f} s" if record.train_seconds else "")
    if not record.step:
        return Text("starting"), Text(f"{time.monotonic() - record.started:.0f} s")
    left = (steps - record.step) / (record.rate or math.inf)
    return Text(f"{record.rate:.2f}"), Text(f"{left:.0f} s left")
