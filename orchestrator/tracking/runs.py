"""Recording: parent and child runs, metrics, pictures, files, checkpoints."""

import io
import math
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from PIL import Image

from orchestrator.errors import UserError
from orchestrator.storage import Store
from orchestrator.tracking.server import without_secrets

PARENT_TAG = "mlflow.parentRunId"
DIGEST_TAG = "digest"
PARAM_CHARACTERS = 6_000


class Tracker:
    """The record of one launch of a sweep; used from one process only."""

    def __init__(self, uri: str, experiment: str, store: Store) -> None:
        """Connects, and finds or makes the experiment.

        Raises:
            UserError: no MLflow answers there.
        """
        mlflow.set_tracking_uri(uri)
        self.uri, self.client = uri, MlflowClient(uri)
        try:
            found = self.client.get_experiment_by_name(experiment)
            location = store.uri("artifacts") if store.local and not uri.startswith("http") else None
            self.experiment = (
                found.experiment_id
                if found is not None
                else self.client.create_experiment(experiment, artifact_location=location)
            )
        except MlflowException as error:
            reason = str(error).splitlines()[0][:200].replace(uri, without_secrets(uri))
            raise UserError(f"tracking {without_secrets(uri)}: MLflow does not answer: {reason}") from None
        self.parent = ""
        self._monitor: SystemMetricsMonitor | None = None
        self._uploads = ThreadPoolExecutor(1, "upload")
        self._pending: list[Future[None]] = []

    def start_launch(self, name: str, digest: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Opens the parent run of the launch with this digest, again if it is there already."""
        self.parent = self._run(name, digest, params, dict(tags))
        self._monitor = SystemMetricsMonitor(self.parent, sampling_interval=10)
        self._monitor.start()
        return self.parent

    def start_trial(self, name: str, digest: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Opens the child run of a trial, again if it is there already; returns its id."""
        return self._run(name, digest, params, {**tags, PARENT_TAG: self.parent})

    def artifact_uri(self, run: str) -> str:
        """Where the run's artifacts are: a folder or bucket, or a server's proxy."""
        return str(self.client.get_run(run).info.artifact_uri)

    def log_metrics(self, run: str, step: int, metrics: Mapping[str, float]) -> None:
        """Finite numbers, at this step."""
        now = int(time.time() * 1000)
        entries = [Metric(k, float(v), now, step) for k, v in metrics.items() if math.isfinite(v)]
        self.client.log_batch(run, metrics=entries)

    def log_picture(self, run: str, key: str, step: int, content: bytes) -> None:
        """A PNG, shown by MLflow against its step."""
        with Image.open(io.BytesIO(content)) as image:
            self.client.log_image(run, image, key=key, step=step)

    def log_text(self, run: str, text: str, file: str) -> None:
        self.client.log_text(run, text, file)

    def log_file(self, run: str, content: bytes, file: str) -> None:
        """`content` as the artifact `file`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(file).name
            path.write_bytes(content)
            self.client.log_artifact(run, str(path), str(Path(file).parent).removeprefix("."))

    def log_json(self, run: str, value: Any, file: str) -> None:
        self.client.log_dict(run, value, file)

    def log_prompts(self, run: str, source: str, digest: str, rows: int) -> None:
        """The prompt set as an MLflow dataset, with its digest."""
        dataset = mlflow.entities.Dataset(
            name=Path(source).name or source,
            digest=digest,
            source_type="local" if "://" not in source else source.split("://")[0],
            source=f'{{"uri": "{source}"}}',
            profile=f'{{"num_rows": {rows}}}',
        )
        context = mlflow.entities.InputTag("mlflow.data.context", "training")
        self.client.log_inputs(run, [mlflow.entities.DatasetInput(dataset, [context])])

    def upload(self, run: str, folder: Path, path: str) -> None:
        """Sends a local folder as artifacts, on a thread of its own, off the training path."""
        self._pending.append(self._uploads.submit(self._upload, run, folder, path))

    def _upload(self, run: str, folder: Path, path: str) -> None:
        try:
            self.client.log_artifacts(run, str(folder), path)
        except FileNotFoundError:
            if folder.exists():
                raise
            # Train has replaced this checkpoint by a newer one, which is uploaded in its turn.

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])

    def finish(self, run: str, status: str) -> None:
        """Ends a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run, status)

    def close(self, status: str) -> None:
        """Waits for uploads and ends the parent run."""
        for upload in self._pending:
            upload.result()
        self._uploads.shutdown()
        if self._monitor is not None:
            self._monitor.finish()
        if self.parent:
            self.finish(self.parent, status)

    def _run(self, name: str, digest: str, params: Mapping[str, Any], tags: dict[str, str]) -> str:
        parent = tags.get(PARENT_TAG)
        query = f"tags.{DIGEST_TAG} = '{digest}'"
        query += f" and tags.`{PARENT_TAG}` = '{parent}'" if parent else ""
        found = self.client.search_runs([self.experiment], query, max_results=1)
        if found:
            run = str(found[0].info.run_id)
            self.client.update_run(run, "RUNNING")
            return run
        tags = {**tags, DIGEST_TAG: digest, "mlflow.runName": name, "mlflow.source.name": "orchestrator.run"}
        run = str(self.client.create_run(self.experiment, tags=tags, run_name=name).info.run_id)
        entries = [Param(key, str(value)[:PARAM_CHARACTERS]) for key, value in params.items()]
        self.client.log_batch(run, params=entries)
        return run
