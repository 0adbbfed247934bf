"""What a launch tells of itself while it runs: a line on the screen, gauges, what it has cost."""

import math
import time
from collections import Counter
from collections.abc import Sequence

from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.ledger import Entry, Ledger
from orchestrator.results.prometheus import PrometheusGauges

LINE_SECONDS = 15.0
GAUGES_SECONDS = 2.0
"""Ray tells a gauge once for each time it is set, so it must be oftener than anybody asks."""


class Progress:
    """Told whenever something may have happened; tells it on now and then."""

    def __init__(self, ledger: Ledger, meter: GpuHourBudget, gauges: PrometheusGauges) -> None:
        self._ledger, self._meter, self._gauges = ledger, meter, gauges
        self._line = self._shown = 0.0

    def tick(self, strengths: int) -> None:
        """Tells, if it is time; `strengths`: of students, that wait to be drawn or are."""
        now, entries = time.monotonic(), list(self._ledger.entries.values())
        if now - self._shown >= GAUGES_SECONDS:
            self._shown = now
            self._gauges.show(entries, self._meter.gpu_hours, self._ledger.restarts)
        if now - self._line >= LINE_SECONDS:
            self._line = now
            self._meter.keep()
            drawing = f"{strengths} strengths to draw" if strengths else ""
            parts = (progress_line(entries), drawing, self._meter.words)
            self._ledger.say(" | ".join(part for part in parts if part))


def progress_line(entries: Sequence[Entry]) -> str:
    """Trials done, running and waiting; of each running one its step, rate and time left."""
    count = Counter(entry.status for entry in entries)
    done = len(entries) - sum(count[status] for status in ("waiting", "running", "interrupted"))
    running = [_running(entry) for entry in entries if entry.status == "running"]
    head = f"{done} of {len(entries)} trials done, {count['running']} running, {count['waiting']} waiting"
    return " | ".join([head, *running])


def _running(entry: Entry) -> str:
    steps = entry.trial.train.steps
    if not entry.step:
        return f"{entry.trial.name}: starting, {time.monotonic() - entry.started:.0f} s"
    left = (steps - entry.step) / (entry.rate or math.inf)
    return f"{entry.trial.name}: step {entry.step}/{steps}, {entry.rate:.2f}/s, {left:.0f} s left"
