"""One launch of a sweep, stage after stage: checks, prompts and references, the search, the summary."""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from orchestrator.analysis.rows import Study
from orchestrator.analysis.seed_study import has_seeds, study
from orchestrator.common.errors import UnfinishedError
from orchestrator.common.redaction import redact_json
from orchestrator.common.storage import STORAGE_ERRORS, Store
from orchestrator.evaluation.reference import load_reference
from orchestrator.execution.cluster_capacity import connected_capacity
from orchestrator.execution.lock import SweepLock
from orchestrator.execution.preparation import encoding_key, prepare
from orchestrator.execution.ray_cluster import connected
from orchestrator.execution.search import search
from orchestrator.execution.tune_callback import LaunchState
from orchestrator.jobs import TrainingJob
from orchestrator.planning.backbone_checks import check_backbones
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.plan import Plan, Trial, describe_loras
from orchestrator.reporting.contact_sheet import report_missing_characters
from orchestrator.reporting.rows import SweepSummary, TrialRow
from orchestrator.reporting.strength_figures import plotted_rows
from orchestrator.reporting.sweep_report import sweep_report
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.champions import assign_champion_aliases
from orchestrator.results.compatibility import check_resumable, trial_identity
from orchestrator.results.ledger import Ledger, recorded_run
from orchestrator.results.record import TrialRecord
from orchestrator.results.students import SHEET_PAIRS, Students, TeacherReferences
from orchestrator.results.summary import summarise, trial_rows
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import recorded_trainings
from orchestrator.tracking.parent_run import describe_sweep, log_comparison
from orchestrator.tracking.server import tracking_uri
from workloads.backbones.loras.entry import TeacherSource

logger = logging.getLogger(__name__)
LIBRARIES = ("ray", "torch", "diffusers", "transformers", "deepspeed", "mlflow", "numpy")
BUCKETS = ("s3://", "gs://", "abfs://", "abfss://", "hdfs://")
"""Schemes that pyarrow opens on every machine."""
CLOSE_SECONDS = 10.0
"""Time that an interrupted launch waits for a tracking server that does not answer."""


def launch(
    plan: Plan, storage: str = "results", tracking: str | None = None, capacity: Capacity | None = None
) -> SweepSummary:
    """Run a sweep on the Ray cluster that RAY_ADDRESS names, or on one of its own; return its results.

    Finished trials are kept: the same call resumes an interrupted launch.

    Args:
        plan: the sweep's plan; see `make_plan`.
        storage: folder or bucket of everything that the sweep writes.
        tracking: URI of MLflow; by default MLFLOW_TRACKING_URI, else a SQLite file in the storage.
        capacity: capacity of the cluster; by default that of the connected one.

    Raises:
        UserError: the storage, a backbone, MLflow or the cluster cannot serve the plan, no prompt is usable,
            or the plan alters finished trials.
        UnfinishedError: tracking is down at the end, or the budget is used up.
        KeyboardInterrupt: the user interrupted it.
    """
    store = Store(storage)
    store.check_writable()
    with SweepLock(store, plan.sweep.name), _storage_errors():
        check_backbones(plan)
        uri = tracking_uri(tracking, store)
        check_resumable(plan, store, None)
        tracker = Tracker(uri, plan.sweep.name, store, recorded_run(store, plan.sweep.name))
        report_missing_characters(_captions(plan))
        logger.info("sweep %s: %d trials; starting Ray", plan.sweep.name, len(plan.trials))
        with connected():
            return run_stages(plan, store, tracker, capacity or connected_capacity())


def run_stages(plan: Plan, store: Store, tracker: Tracker, capacity: Capacity) -> SweepSummary:
    """Run all stages on the connected Ray; see `launch`."""
    began = time.monotonic()
    capacity.max_concurrent_trials(plan)
    try:
        summary = _Launch(plan, store, tracker, capacity).run(began)
    except BaseException:
        with suppress(UnfinishedError):
            tracker.close("KILLED", CLOSE_SECONDS)
        raise
    tracker.close("FINISHED" if summary.complete else "FAILED")
    return summary


class _Launch:
    """The stages of a launch, one after the other."""

    def __init__(self, plan: Plan, store: Store, tracker: Tracker, capacity: Capacity) -> None:
        self._plan, self._store, self._tracker, self._capacity = plan, store, tracker, capacity
        self._shared = prepare(plan, store)
        check_resumable(plan, store, self._shared.prompts)
        self._ledger = Ledger(store, plan.sweep.name, tracker)
        self._budget = GpuHourBudget(plan, store)
        self._teachers = _load_references(self._shared.references, store)

    def run(self, began: float) -> SweepSummary:
        """Run all stages; `began` is the launch's start by the monotonic clock."""
        parent = self._start_parent_run()
        logger.info("tracking: experiment %s, parent run %s", self._plan.sweep.name, parent)
        students = Students(
            self._plan, self._store, self._ledger, self._tracker, self._shared.prompts, self._teachers
        )
        try:
            self._search(students)
            failures = students.close()
            return self._conclude(failures, time.monotonic() - began)
        except BaseException:
            students.abandon()
            self._ledger.interrupted()
            raise

    def _start_parent_run(self) -> str:
        """Open the parent run with the launch's versions and settings; return it."""
        plan, tracker, prompts = self._plan, self._tracker, self._shared.prompts
        about = {"trials": len(plan.trials), "prompts": prompts.prompts, "launch": plan.digest}
        tags = {key: str(value) for key, value in (about | _versions()).items()}
        parent = tracker.start_sweep(plan.sweep.name, self._store.root, tags, plan.sweep.ranked_by)
        tracker.log_json(parent, redact_json(plan.sweep.model_dump(mode="json")), "sweep.json")
        tracker.log_text(parent, "\n".join(sys.argv), "command.txt")
        tracker.log_prompts(parent, prompts.source, prompts.digest, prompts.prompts)
        return parent

    def _search(self, students: Students) -> None:
        """Run every trial that has no result yet, and the second search of every student."""
        plan, ledger = self._plan, self._ledger
        keep_stopped = plan.sweep.search.scheduler != "none"
        todo = [self._job(trial) for trial in plan.trials if not ledger.restore(trial, keep_stopped)]
        if len(todo) < len(plan.trials):
            logger.info("%d trials have a result already and are kept", len(plan.trials) - len(todo))
        for record in [record for record in ledger.records.values() if record.status == "finished"]:
            students.ready(record.trial)
        if todo or students.waiting:
            at_once = self._capacity.max_concurrent_trials(plan)
            logger.info("searching: %d trainings, %d at once", len(todo), at_once)
            search(plan, todo, LaunchState(ledger, students, self._budget), at_once)

    def _job(self, trial: Trial) -> TrainingJob:
        """Open the trial's run in MLflow, and return the job of its workers."""
        plan, store, shared = self._plan, self._store, self._shared
        run, artifacts = self._tracker.start_trial(
            trial.name, trial.digest, _params(trial), {"backbone": trial.backbone.name}
        )
        self._tracker.log_prompts(run, shared.prompts.source, shared.prompts.digest, shared.prompts.prompts)
        self._ledger.add(trial, run, trial_identity(plan, trial, shared.prompts))
        folder = f"{plan.sweep.name}/trials/{trial.digest}"
        with_negatives = trial.train.trains_with_negatives
        job = TrainingJob(
            trial=trial,
            shards=shared.shards[encoding_key(trial)],
            negatives=shared.negatives[trial.teacher] if with_negatives else None,
            reference=shared.references[trial.teacher],
            root=store.root,
            folder=folder,
            checkpoints=checkpoints_uri(artifacts, store, folder),
            evaluate=plan.sweep.evaluate,
            resources=plan.sweep.resources,
            node_labels=self._capacity.node_labels(plan),
            on_one_node=self._capacity.every_node_holds_a_trial(plan),
            ranked_by=plan.sweep.ranked_by,
        )
        store.delete(job.stop_request)
        return job

    def _conclude(self, failures: Sequence[str], seconds: float) -> SweepSummary:
        """Name the champions, and write comparison, summary and report."""
        plan, store, tracker = self._plan, self._store, self._tracker
        records = [self._ledger.records[trial.digest] for trial in plan.trials]
        champions = tracker.ask(lambda: assign_champion_aliases(records, plan.sweep.ranked_by))
        rows = trial_rows(records, self._teachers.scores, champions, plan.sweep.ranked_by)
        sheets, strengths, scales = self._sheets(records, rows)
        log_comparison(tracker, rows, list(sheets.values()), strengths)
        summary = summarise(plan, rows, self._shared.prompts, tracker, self._budget, failures, seconds)
        store.write_json(f"{plan.sweep.name}/summary.json", summary.to_json())
        tracker.log_json(tracker.parent, summary.to_json(), "summary.json")
        page = sweep_report(summary, sheets, strengths, scales, self._over_seeds())
        store.write(f"{plan.sweep.name}/report.html", page.encode())
        tracker.log_text(tracker.parent, page, "report.html")
        describe_sweep(tracker, summary, store.uri(plan.sweep.name))
        return summary

    def _sheets(
        self, records: Sequence[TrialRecord], rows: Sequence[TrialRow]
    ) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes]]:
        """Read the sheets of the trials that are plotted: beside the teacher, by strength, and by scale."""
        plotted = {row.digest for row in plotted_rows(rows)}
        shown = [record for record in records if record.trial.digest in plotted]
        sheets = {record.name: self._store.read(record.sheet) for record in shown if record.sheet}
        strengths = {record.name: self._store.read(record.strengths) for record in shown if record.strengths}
        scales = {record.name: self._store.read(record.scales) for record in shown if record.scales}
        return sheets, strengths, scales

    def _over_seeds(self) -> Study | None:
        """Return the study over seeds, as `orchestrator.report` computes it, if an arm has several seeds."""
        plan, tracker = self._plan, self._tracker
        if len({trial.train.seed for trial in plan.trials}) < 2:
            return None
        trainings = recorded_trainings(tracker)
        if not has_seeds(trainings):
            return None
        found = study(trainings)
        self._store.write_json(f"{plan.sweep.name}/report.json", found)
        tracker.log_json(tracker.parent, found, "report.json")
        return found


def _load_references(files: Mapping[TeacherSource, str], store: Store) -> TeacherReferences:
    """Return the teachers' scores; log prompts that a text encoder cuts to its tokens."""
    scores = {}
    for teacher, name in files.items():
        reference = load_reference(store, name)
        scores[teacher] = reference.teacher_scores
        if reference.cut:
            example = textwrap.shorten(reference.cut[0], 80)
            count = len(reference.cut)
            logger.warning(
                "%s: cuts %d prompts of evaluate and infer to its tokens: %s", teacher.source, count, example
            )
    return TeacherReferences(files, scores)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn the failure of the storage, such as a full disk, into an error that ends the launch in one
    line."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        raise UnfinishedError(f"storage: {error}; correct it, then run the same command to resume") from None


def _captions(plan: Plan) -> list[str]:
    """Return the texts beside the pictures of all contact sheets."""
    pairs = plan.infer.pairs[:SHEET_PAIRS] if plan.infer else ()
    of_pairs = [text for pair in pairs for text in (pair.prompt, pair.negative_prompt)]
    return [*plan.sweep.evaluate.sheet_prompts, *of_pairs]


def checkpoints_uri(artifacts: str, store: Store, folder: str) -> str:
    """Return the place of a training's checkpoints: MLflow's artifacts of its run, if workers reach them.

    Workers do not reach them behind a server's proxy, or where MLflow keeps files in a folder of the driver's
    machine. Then the place is the training's `folder` in the storage, and the tracker uploads from there.
    """
    return artifacts if artifacts.startswith((f"{store.root}/", *BUCKETS)) else store.uri(folder)


def _versions() -> dict[str, str]:
    libraries = {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}
    return {**libraries, "git_revision": _git_revision(), "python": platform.python_version()}


def _params(trial: Trial) -> dict[str, Any]:
    """Return the trial's settings, flattened by one level, as MLflow lists them."""
    train: dict[str, Any] = {}
    for key, value in trial.train.identity.items():
        train |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {
        "backbone": trial.backbone.name,
        "model": trial.backbone.model,
        **({"loras": describe_loras(trial.backbone)} if trial.loras else {}),
        "start_timestep": trial.backbone.start_timestep,
        "objective": trial.train.objective,
        "student_steps": trial.train.student_steps,
        **({"arm": trial.arm} if trial.arm else {}),
        **train,
    }


def _git_revision() -> str:
    """Return the revision of the code: of the image, which has no git, else of the working tree."""
    if revision := os.environ.get("ORCHESTRATOR_GIT_REVISION"):
        return revision
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
