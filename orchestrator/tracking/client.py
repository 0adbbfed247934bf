"""Recording in MLflow: parent and child runs, metrics, pictures, files, checkpoints.

Records go through a `RetryQueue`; requests whose answer is needed at once are repeated during outages.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from orchestrator.common.errors import UnfinishedError, UserError
from orchestrator.common.library_logging import silence_loggers
from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.tracking.deduplication import Records
from orchestrator.tracking.queries import PARENT_TAG, check_run, child_runs, find_experiment, tag_equals
from orchestrator.tracking.retry_queue import RetryPolicy, RetryQueue
from orchestrator.tracking.server import refusal
from orchestrator.tracking.ui_view import experiment_tags

DIGEST_TAG = "digest"
PARAM_CHARACTERS = 6_000
CLOSE_SECONDS = 300.0
"""Seconds that a finished launch waits for a tracking server that does not answer."""
T = TypeVar("T")


class Tracker:
    """The record of one launch of a sweep; used from one process only."""

    def __init__(self, uri: str, experiment: str, store: Store, known_run: str | None = None) -> None:
        """Connect to MLflow, and find or create the experiment; see `find_experiment`.

        Raises:
            UserError: MLflow does not answer or refuses the login, the storage was moved, or the experiment
                was deleted or has another name.
        """
        # MLflow's own retries take minutes and would block the driver.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        # MLflow would print the URI with its password at the end of every run.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        # MLflow sets the level of its loggers when it is imported.
        silence_loggers()
        mlflow.set_tracking_uri(uri)
        self.uri, self.client = uri, MlflowClient(uri)
        self.experiment = find_experiment(self.client, uri, experiment, store, known_run)
        self.parent = ""
        self._trials: dict[str, Run] = {}
        """Known runs of trials, by digest."""
        self._monitor: SystemMetricsMonitor | None = None
        self._records = Records(self.client)
        self._gathered: dict[str, list[Metric]] = {}
        self._gather = Lock()
        self._retries = RetryPolicy(self._answers)
        self._queue = RetryQueue("tracking", self._retries)
        # A queue of their own, since a checkpoint may have gigabytes.
        self._uploads = RetryQueue("uploads", self._retries)

    def start_sweep(self, name: str, root: str, tags: Mapping[str, str], metric: str | None) -> str:
        """Open the parent run of a sweep, or reopen it if it exists; return it.

        Args:
            name: the sweep.
            root: URI of its storage.
            tags: tags of the run.
            metric: ranks the trials on MLflow's page, if there is one.

        Raises:
            UserError: this login may not write to the experiment.
        """
        identity = {"sweep": name, "storage": root}
        try:
            run, resumed = self._run(f"sweep {name}", identity, {}, {**identity, **tags})
        except MlflowException as error:
            raise UserError(refusal(self.uri, error, name)) from None
        self.parent = str(run.info.run_id)
        if resumed:
            self._trials = self.ask(self._find_trials)
        for key, value in experiment_tags(metric).items():
            self.then(partial(self.client.set_experiment_tag, self.experiment, key, value))
        self._monitor = SystemMetricsMonitor(self.parent, sampling_interval=10, resume_logging=resumed)
        self._monitor.start()
        return self.parent

    def start_trial(
        self, name: str, digest: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> tuple[str, str]:
        """Open the child run of a trial, or reopen it if it exists.

        Returns:
            The run's id, and the URI of its artifacts: a folder, a bucket or a server's proxy.
        """
        identity = {DIGEST_TAG: digest, PARENT_TAG: self.parent}
        known, given = self._trials.get(digest), {**tags, **identity}
        run = self.ask(lambda: self._run(name, identity, params, given, known))[0]
        self._trials[digest] = run
        return str(run.info.run_id), str(run.info.artifact_uri)

    def keep_trial(self, run: str, trial: str) -> None:
        """Put the run of a finished trial below this launch's parent, if it is below another.

        The parent is another one after the storage was moved, or after the parent was deleted.

        Raises:
            UserError: the run was deleted, this MLflow never had it, or it is in another experiment.
        """
        if any(known.info.run_id == run for known in self._trials.values()):
            return
        self.ask(lambda: check_run(self.client, self.uri, self.experiment, run, trial))
        self.set_tags(run, {PARENT_TAG: self.parent})

    def ask(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, however long MLflow takes to answer.

        Raises:
            UnfinishedError: MLflow refuses, for example because something was deleted meanwhile.
        """
        try:
            return self._retries.call(work)
        except MlflowException as error:
            reason = redact(str(error)).splitlines()[0][:300]
            raise UnfinishedError(
                f"tracking {redact(self.uri)}: refuses: {reason}; correct it, then run the same command"
            ) from None

    def then(self, work: Callable[[], object]) -> None:
        """Do `work` once all earlier records are sent."""
        self._queue.put(work)

    def log_metrics(self, run: str, step: int, metrics: Mapping[str, float]) -> None:
        """Log the finite numbers at this step; numbers that are recorded already stay as they are."""
        now = int(time.time() * 1000)
        finite = [Metric(key, float(v), now, step) for key, v in metrics.items() if math.isfinite(v)]
        with self._gather:
            if run not in self._gathered:
                gathered: list[Metric] = []
                self._gathered[run] = gathered
                self.then(partial(self._record_metrics, run, gathered))
            self._gathered[run] += finite

    def log_picture(self, run: str, key: str, step: int, content: bytes) -> None:
        """Log a PNG, which MLflow shows by step."""
        self.then(partial(self._records.picture, run, key, step, content))

    def log_table(self, run: str, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Log a table, given by columns; it replaces an earlier one of this name."""
        self.then(partial(self._records.table, run, columns, file))

    def log_text(self, run: str, text: str, file: str) -> None:
        """Log text, without credentials, as the artifact `file`."""
        self.then(partial(self.client.log_text, run, redact(text), file))

    def log_file(self, run: str, content: bytes, file: str) -> None:
        """Log `content` as the artifact `file`."""
        self.then(partial(self._log_file, run, content, file))

    def log_json(self, run: str, value: Any, file: str) -> None:
        """Log a JSON value as the artifact `file`."""
        self.then(partial(self.client.log_dict, run, value, file))

    def log_prompts(self, run: str, source: str, digest: str, rows: int) -> None:
        """Log the prompt set as an MLflow dataset, with its digest."""
        dataset = Dataset(
            name=Path(source).name or source,
            digest=digest,
            source_type="local" if "://" not in source else source.split("://")[0],
            source=json.dumps({"uri": source}),
            profile=json.dumps({"num_rows": rows}),
        )
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        self.then(partial(self.client.log_inputs, run, [used]))

    def upload(self, run: str, folder: Path, path: str) -> None:
        """Upload a local folder as artifacts, on a thread of its own."""
        self._uploads.put(partial(self._upload, run, folder, path))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        entries = [RunTag(key, value) for key, value in tags.items()]
        self.then(partial(self.client.log_batch, run, tags=entries))

    def finish(self, run: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self.then(partial(self.client.set_terminated, run, status))

    def close(self, status: str, seconds: float = CLOSE_SECONDS) -> None:
        """End the parent run, and wait until all is recorded, for at most `seconds`.

        Raises:
            UnfinishedError: MLflow does not answer; the same command sends what is missing.
        """
        if self._monitor is not None:
            self._monitor.finish()
        if self.parent:
            self.finish(self.parent, status)
        done = [self._uploads.close(seconds), self._queue.close(seconds)]
        if not all(done):
            raise UnfinishedError(
                f"tracking {redact(self.uri)}: has not answered for {seconds:g} s, "
                f"{self._queue.waiting} records wait: run the same command once it answers"
            )

    def _find_trials(self) -> dict[str, Run]:
        """Return the sweep's child runs by digest."""
        runs = child_runs(self.client, self.experiment, self.parent)
        return {run.data.tags[DIGEST_TAG]: run for run in runs if DIGEST_TAG in run.data.tags}

    def _answers(self) -> bool:
        try:
            self.client.get_experiment(self.experiment)
        except (MlflowException, OSError):
            return False
        return True

    def _record_metrics(self, run: str, gathered: list[Metric]) -> None:
        """Send all metrics of a run that have gathered meanwhile in one request instead of one a step."""
        with self._gather:
            if self._gathered.get(run) is gathered:
                del self._gathered[run]
        self._records.metrics(run, gathered)

    def _upload(self, run: str, folder: Path, path: str) -> None:
        try:
            self.client.log_artifacts(run, str(folder), path)
        except FileNotFoundError:
            if folder.exists():
                raise
            # A newer checkpoint has replaced this one, and is uploaded next.

    def _log_file(self, run: str, content: bytes, file: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file).name
            path.write_bytes(content)
            self.client.log_artifact(run, str(path), str(Path(file).parent).removeprefix("."))

    def _run(
        self,
        name: str,
        identity: Mapping[str, str],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        known: Run | None = None,
    ) -> tuple[Run, bool]:
        """Find the run with these tags as `identity`, or create it; return it, and true if it existed."""
        query = " and ".join(tag_equals(key, value) for key, value in identity.items())
        given = {**tags, "mlflow.runName": name, "mlflow.source.name": "orchestrator.run"}

        def find_or_make() -> tuple[Run, bool]:
            # One piece of work: a run whose creation was answered too late is found by the next attempt.
            found = self.client.search_runs([self.experiment], query, max_results=1)
            made = found or [self.client.create_run(self.experiment, tags=given, run_name=name)]
            return made[0], bool(found)

        found, resumed = (known, True) if known is not None else self._retries.call(find_or_make)
        run, missing = str(found.info.run_id), params.keys() - found.data.params.keys()
        entries = [Param(key, str(params[key])[:PARAM_CHARACTERS]) for key in sorted(missing)]
        own = [RunTag(key, value) for key, value in tags.items() if not key.startswith("mlflow.")]
        if resumed:
            self.then(partial(self.client.update_run, run, "RUNNING"))
        else:
            self._records.made(run)
        self.then(partial(self.client.log_batch, run, params=entries, tags=own if resumed else []))
        return found, resumed
