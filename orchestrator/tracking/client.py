"""Recording: parent and child runs, metrics, pictures, files, checkpoints.

Whatever is recorded goes through an `RetryQueue`; what needs an answer at once is asked with patience.
"""

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
from orchestrator.common.redaction import redact
from orchestrator.common.storage import Store
from orchestrator.tracking.deduplication import Records
from orchestrator.tracking.retry_queue import RetryPolicy, RetryQueue
from orchestrator.tracking.server import refusal
from orchestrator.tracking.ui_view import VIEW_TAG, view

PARENT_TAG = "mlflow.parentRunId"
DIGEST_TAG = "digest"
PAGE = 200
PARAM_CHARACTERS = 6_000
CLOSE_SECONDS = 300.0
"""For which a finished launch waits for a tracking server that does not answer."""
T = TypeVar("T")


class Tracker:
    """The record of one launch of a sweep; used from one process only."""

    def __init__(self, uri: str, experiment: str, store: Store, say: Callable[[str], None]) -> None:
        """Connects, and finds or makes the experiment; `say` takes lines for the user.

        Raises:
            UserError: no MLflow answers there, it refuses the login, or the experiment was deleted.
        """
        # MLflow's own retries, of minutes, would hold up the driver.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        # It would print the URI whole, at the end of every run.
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        mlflow.set_tracking_uri(uri)
        self.uri, self.client = uri, MlflowClient(uri)
        self.experiment = self._find_experiment(experiment, store)
        self.parent = ""
        self._trials: dict[str, Run] = {}
        """By digest, those that are known."""
        self._monitor: SystemMetricsMonitor | None = None
        self._say, self._records = say, Records(self.client)
        self._gathered: dict[str, list[Metric]] = {}
        self._gather = Lock()
        self._patience = RetryPolicy(say, self._answers)
        self._outbox = RetryQueue("tracking", self._patience, say)
        # Apart, since a checkpoint may be gigabytes.
        self._uploads = RetryQueue("uploads", self._patience, say)

    def start_sweep(self, name: str, root: str, tags: Mapping[str, str], metric: str | None) -> str:
        """Opens the parent run of the sweep in the storage `root`, again if it is there already.

        MLflow's pages show its trials by `metric`, if any is given.

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
        self.then(partial(self.client.set_experiment_tag, self.experiment, VIEW_TAG, view(metric)))
        self._monitor = SystemMetricsMonitor(self.parent, sampling_interval=10, resume_logging=resumed)
        self._monitor.start()
        return self.parent

    def start_trial(
        self, name: str, digest: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> tuple[str, str]:
        """Opens the child run of a trial, again if it is there already.

        Returns its id, and where its artifacts are: a folder or bucket, or a server's proxy.
        """
        identity = {DIGEST_TAG: digest, PARENT_TAG: self.parent}
        run = self._run(name, identity, params, {**tags, **identity}, self._trials.get(digest))[0]
        self._trials[digest] = run
        return str(run.info.run_id), str(run.info.artifact_uri)

    def check_holds(self, run: str, trial: str) -> None:
        """Raises UserError if the run of a trial that is finished is not there."""
        if any(known.info.run_id == run for known in self._trials.values()):
            return
        try:
            info = self.ask(lambda: self.client.get_run(run).info)
            if info.lifecycle_stage != "deleted":
                return
            way_out = f"bring it back with mlflow runs restore --run-id {run}"
        except MlflowException:
            way_out = "give the tracking URI that it was recorded with"
        raise UserError(
            f"tracking {redact(self.uri)}: run {run} of the finished trial {trial} is not there: "
            f"{way_out}, or give this sweep another name"
        )

    def ask(self, work: Callable[[], T]) -> T:
        """What `work` returns, now, however long MLflow takes to answer."""
        return self._patience.call(work)

    def then(self, work: Callable[[], object]) -> None:
        """Does `work` when all is recorded that was given before."""
        self._outbox.put(work)

    def log_metrics(self, run: str, step: int, metrics: Mapping[str, float]) -> None:
        """Finite numbers, at this step; those that are recorded already are left as they are."""
        now = int(time.time() * 1000)
        finite = [Metric(key, float(v), now, step) for key, v in metrics.items() if math.isfinite(v)]
        with self._gather:
            if run not in self._gathered:
                gathered: list[Metric] = []
                self._gathered[run] = gathered
                self.then(partial(self._record_metrics, run, gathered))
            self._gathered[run] += finite

    def log_picture(self, run: str, key: str, step: int, content: bytes) -> None:
        """A PNG, shown by MLflow against its step."""
        self.then(partial(self._records.picture, run, key, step, content))

    def log_table(self, run: str, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """A table, by columns, in place of any of this name."""
        self.then(partial(self._records.table, run, columns, file))

    def log_text(self, run: str, text: str, file: str) -> None:
        self.then(partial(self.client.log_text, run, redact(text), file))

    def log_file(self, run: str, content: bytes, file: str) -> None:
        """`content` as the artifact `file`."""
        self.then(partial(self._log_file, run, content, file))

    def log_json(self, run: str, value: Any, file: str) -> None:
        self.then(partial(self.client.log_dict, run, value, file))

    def log_prompts(self, run: str, source: str, digest: str, rows: int) -> None:
        """The prompt set as an MLflow dataset, with its digest."""
        dataset = Dataset(
            name=Path(source).name or source,
            digest=digest,
            source_type="local" if "://" not in source else source.split("://")[0],
            source=f'{{"uri": "{source}"}}',
            profile=f'{{"num_rows": {rows}}}',
        )
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])
        self.then(partial(self.client.log_inputs, run, [used]))

    def upload(self, run: str, folder: Path, path: str) -> None:
        """Sends a local folder as artifacts, off the training path."""
        self._uploads.put(partial(self._upload, run, folder, path))

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        entries = [RunTag(key, value) for key, value in tags.items()]
        self.then(partial(self.client.log_batch, run, tags=entries))

    def finish(self, run: str, status: str) -> None:
        """Ends a run: FINISHED, FAILED or KILLED."""
        self.then(partial(self.client.set_terminated, run, status))

    def close(self, status: str, seconds: float = CLOSE_SECONDS) -> None:
        """Ends the parent run and waits for all that is to be recorded, for so long at the most.

        Raises:
            UnfinishedError: MLflow does not answer; what waits is made again by the same command.
        """
        if self._monitor is not None:
            self._monitor.finish()
        if self.parent:
            self.finish(self.parent, status)
        done = [self._uploads.close(seconds), self._outbox.close(seconds)]
        if not all(done):
            raise UnfinishedError(
                f"tracking {redact(self.uri)}: has not answered for {seconds:g} s, "
                f"{self._outbox.waiting} records wait; the same command records them when it is back"
            )

    def _find_trials(self) -> dict[str, Run]:
        """The sweep's child runs by digest, in a request per page."""
        query = f"tags.`{PARENT_TAG}` = '{self.parent}'"
        found: dict[str, Run] = {}
        page, more = None, True
        while more:
            some = self.client.search_runs([self.experiment], query, max_results=PAGE, page_token=page)
            found |= {run.data.tags[DIGEST_TAG]: run for run in some}
            page, more = some.token, bool(some.token)
        return found

    def _find_experiment(self, name: str, store: Store) -> str:
        location = store.uri("artifacts") if store.local and not self.uri.startswith("http") else None
        try:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                return str(self.client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            raise UserError(refusal(self.uri, error, name)) from None
        if found.lifecycle_stage == "deleted":
            raise UserError(
                f"tracking {redact(self.uri)}: the experiment {name!r} was deleted there: bring it "
                f"back with mlflow experiments restore --experiment-id {found.experiment_id}, or give "
                f"another name"
            )
        return str(found.experiment_id)

    def _answers(self) -> bool:
        try:
            self.client.get_experiment(self.experiment)
        except (MlflowException, OSError):
            return False
        return True

    def _record_metrics(self, run: str, gathered: list[Metric]) -> None:
        """All that has come of a run while others were recorded: one request, not one a step."""
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
            # A newer checkpoint has replaced this one, and is uploaded in its turn.

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
        """The run with these tags as `identity`, made if there is none; whether it was there."""
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())
        given = {**tags, "mlflow.runName": name, "mlflow.source.name": "orchestrator.run"}

        def find_or_make() -> tuple[Run, bool]:
            # In one piece: a run whose making was answered too late is found by the next attempt.
            found = self.client.search_runs([self.experiment], query, max_results=1)
            made = found or [self.client.create_run(self.experiment, tags=given, run_name=name)]
            return made[0], bool(found)

        found, resumed = (known, True) if known is not None else self.ask(find_or_make)
        run, missing = str(found.info.run_id), params.keys() - found.data.params.keys()
        entries = [Param(key, str(params[key])[:PARAM_CHARACTERS]) for key in sorted(missing)]
        own = [RunTag(key, value) for key, value in tags.items() if not key.startswith("mlflow.")]
        if resumed:
            self.then(partial(self.client.update_run, run, "RUNNING"))
        else:
            self._records.made(run)
        self.then(partial(self.client.log_batch, run, params=entries, tags=own if resumed else []))
        return found, resumed
