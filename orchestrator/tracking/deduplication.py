"""Deduplication of records: nothing is recorded twice in a run.

A resumed training reports some of its steps again, and a request whose answer was lost is sent again; MLflow
itself would keep both.
"""

import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

BATCH = 1000
"""Largest number of metrics in one request to MLflow."""
TABLES_TAG = "mlflow.loggedArtifacts"
PICTURE = re.compile(r"images/(?P<key>.+?)\+step\+(?P<step>\d+)\+")
"""File name that MLflow gives a picture; a tilde stands for a slash in the key."""


class Records:
    """Metrics, pictures and tables of runs, each recorded once; used from one thread only."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self._steps: dict[tuple[str, str], set[int]] = {}
        self._pictures: dict[str, set[tuple[str, int]]] = {}
        self._new: set[str] = set()

    def made(self, run: str) -> None:
        """Record that the run is new and empty."""
        self._new.add(run)
        self._pictures[run] = set()

    def metrics(self, run: str, metrics: Sequence[Metric]) -> None:
        """Log the metrics whose key and step the run does not have yet."""
        fresh: dict[tuple[str, int], Metric] = {}
        for metric in metrics:
            if metric.step not in self._recorded_steps(run, metric.key):
                fresh.setdefault((metric.key, metric.step), metric)
        entries = list(fresh.values())
        for start in range(0, len(entries), BATCH):
            self._batch(run, entries[start : start + BATCH])

    def _batch(self, run: str, entries: Sequence[Metric]) -> None:
        try:
            self._client.log_batch(run, metrics=entries)
        except Exception:
            # They may have arrived nevertheless: read the run's metrics before the next attempt.
            self._new.discard(run)
            for entry in entries:
                self._steps.pop((run, entry.key), None)
            raise
        for entry in entries:
            self._steps[run, entry.key].add(entry.step)

    def picture(self, run: str, key: str, step: int, content: bytes) -> None:
        """Log a PNG, which MLflow shows by step."""
        if run not in self._pictures:
            self._pictures[run] = self._recorded_pictures(run)
        if (key, step) in self._pictures[run]:
            return
        with Image.open(io.BytesIO(content)) as image:
            try:
                self._client.log_image(run, image, key=key, step=step)
            except Exception:
                del self._pictures[run]
                raise
        self._pictures[run].add((key, step))

    def table(self, run: str, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table that replaces an earlier one of this name; `MlflowClient.log_table` would append."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._client.log_dict(run, {"columns": list(columns), "data": rows}, file)
        shown = json.loads(self._client.get_run(run).data.tags.get(TABLES_TAG, "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in shown:
            self._client.set_tag(run, TABLES_TAG, json.dumps([*shown, entry]))

    def _recorded_steps(self, run: str, key: str) -> set[int]:
        if (run, key) not in self._steps:
            history = [] if run in self._new else self._client.get_metric_history(run, key)
            self._steps[run, key] = {metric.step for metric in history}
        return self._steps[run, key]

    def _recorded_pictures(self, run: str) -> set[tuple[str, int]]:
        found = (PICTURE.match(file.path) for file in self._client.list_artifacts(run, "images"))
        return {(name["key"].replace("~", "/"), int(name["step"])) for name in found if name}
