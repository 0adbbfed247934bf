"""Progress of a running launch: a live table on a terminal, otherwise a line now and then; and gauges."""

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Ledger
from orchestrator.results.live_table import LiveTable
from orchestrator.results.prometheus import PrometheusGauges
from orchestrator.results.record import TrialRecord

logger = logging.getLogger(__name__)
LINE_SECONDS = 15.0
GAUGES_SECONDS = 2.0
"""Seconds between two updates of the gauges. Ray exports a gauge once for each time it is set, so this must
be shorter than Prometheus' scrape interval."""
TABLE_SECONDS = 0.5


class Progress:
    """Display of a launch's progress; `tick` is called often and `close` once."""

    def __init__(
        self, ledger: Ledger, budget: GpuHourBudget, gauges: PrometheusGauges, metric: str | None
    ) -> None:
        """Show a live table, with scores of `metric`, on a terminal that can redraw lines."""
        self._ledger, self._budget, self._gauges = ledger, budget, gauges
        redrawn = sys.stdout.isatty() and not Console().is_dumb_terminal
        self._table = LiveTable(metric) if redrawn else None
        self._last: dict[str, float] = {}

    def tick(self, strengths: int) -> None:
        """Update whatever is due; `strengths` counts small trials that are not over."""
        records = list(self._ledger.records.values())
        if self._due("gauges", GAUGES_SECONDS):
            self._gauges.update(records, self._budget.gpu_hours, self._ledger.restarts)
        if self._due("budget", LINE_SECONDS):
            self._budget.save()
            if self._table is None:
                logger.info("%s", " | ".join([progress_line(records), *self._footer(strengths)]))
        if self._table is not None and self._due("table", TABLE_SECONDS):
            self._table.show(records, " | ".join(self._footer(strengths)))

    def close(self) -> None:
        """Leave the last state of the live table on the screen."""
        if self._table is not None:
            self._table.close()

    def _footer(self, strengths: int) -> list[str]:
        drawing = f"{strengths} strengths to draw" if strengths else ""
        return [part for part in (drawing, self._budget.summary) if part]

    def _due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._last.get(what, -math.inf) < seconds:
            return False
        self._last[what] = now
        return True


def progress_line(records: Sequence[TrialRecord]) -> str:
    """Return the counts of trials by state, and step, rate and time left of each running one."""
    count = Counter(record.status for record in records)
    done = len(records) - sum(count[status] for status in ("waiting", "running", "interrupted"))
    running = [_running(record) for record in records if record.status == "running"]
    head = f"{done} of {len(records)} trials done, {count['running']} running, {count['waiting']} waiting"
    return " | ".join([head, *running])


def _running(record: TrialRecord) -> str:
    steps = record.trial.train.steps
    if not record.step:
        return f"{record.name}: starting, {time.monotonic() - record.started:.0f} s"
    left = (steps - record.step) / (record.rate or math.inf)
    return f"{record.name}: step {record.step}/{steps}, {record.rate:.2f}/s, {left:.0f} s left"
