"""One launch of a sweep, stage after stage: prompts, references, search, summary."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.analysis.rows import Study
from orchestrator.analysis.seed_study import has_seeds, study
from orchestrator.common.errors import UnfinishedError
from orchestrator.common.redaction import redact, redact_json
from orchestrator.common.storage import Store
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.evaluation.reference import load_reference
from orchestrator.execution.preparation import encoding_key, prepare
from orchestrator.execution.search import LaunchState, search
from orchestrator.jobs import TrainingJob
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.plan import Plan, Trial
from orchestrator.reporting.strength_figures import pictured
from orchestrator.reporting.sweep_report import report
from orchestrator.results.budget import GpuHourBudget
from orchestrator.results.compatibility import check_resumable, identity
from orchestrator.results.ledger import Ledger
from orchestrator.results.students import Students, assign_champion_aliases
from orchestrator.results.summary import comparison_rows, summary
from orchestrator.tracking import Tracker, log_comparison, recorded_trainings

LIBRARIES = ("ray", "torch", "diffusers", "transformers", "deepspeed", "mlflow", "numpy")
BUCKETS = ("s3://", "gs://", "abfs://", "abfss://", "hdfs://")
"""What pyarrow opens on every machine."""
LAST_WORDS_SECONDS = 10.0
"""For which an interrupted launch waits for a tracking server that does not answer."""


def launch(
    plan: Plan, store: Store, tracker: Tracker, capacity: Capacity, say: Callable[[str], None]
) -> dict[str, Any]:
    """Runs the sweep on the connected Ray, of `capacity`; returns its summary, which it also writes.

    Raises:
        UserError: the cluster cannot hold a trial, no prompt is usable, or the file alters trials
            that are finished.
        UnfinishedError: tracking is down at the end, or the budget is used up.
        KeyboardInterrupt: the user ended it; running trials are left to be taken up again.
    """
    began = time.monotonic()
    capacity.max_concurrent_trials(plan)
    try:
        result = _Launch(plan, store, tracker, capacity, say).run(began)
    except BaseException:
        with suppress(UnfinishedError):
            tracker.close("KILLED", LAST_WORDS_SECONDS)
        raise
    tracker.close("FAILED" if result["failed"] or result["infer_failures"] else "FINISHED")
    return result


class _Launch:
    """The stages of a launch, one after the other."""

    def __init__(
        self, plan: Plan, store: Store, tracker: Tracker, capacity: Capacity, say: Callable[[str], None]
    ) -> None:
        self._plan, self._store, self._tracker, self._capacity = plan, store, tracker, capacity
        self._say = say
        self._shared = prepare(plan, store, say)
        check_resumable(plan, store, self._shared.prompts)
        self._ledger = Ledger(store, plan.sweep.name, tracker, say)
        self._meter = GpuHourBudget(plan, store)
        references = self._shared.references
        self._teachers = {
            source: load_reference(store, name).teacher_scores for source, name in references.items()
        }

    def run(self, began: float) -> dict[str, Any]:
        """All of it; the summary. `began`: when, by the monotonic clock."""
        parent = _record_launch(self._plan, self._tracker, self._shared.prompts, self._store)
        self._say(f"tracking: experiment {self._plan.sweep.name}, parent run {parent}")
        prompts, references = self._shared.prompts, self._shared.references
        students = Students(
            self._plan, self._store, self._ledger, self._tracker, prompts, references, self._teachers
        )
        try:
            self._search(students)
            failures = students.close()
            return self._conclude(failures, time.monotonic() - began)
        except BaseException:
            students.abandon()
            self._ledger.interrupted()
            raise

    def _search(self, students: Students) -> None:
        """Whatever has no result yet, and what becomes of students."""
        plan, ledger = self._plan, self._ledger
        stopped = plan.sweep.search.scheduler != "none"
        todo = [self._job(trial) for trial in plan.trials if not ledger.keep(trial, stopped)]
        if len(todo) < len(plan.trials):
            ledger.say(f"{len(plan.trials) - len(todo)} trials have a result already and are kept")
        for entry in [entry for entry in ledger.entries.values() if entry.status == "finished"]:
            students.ready(entry.trial)
        if todo or students.waiting:
            at_once = self._capacity.max_concurrent_trials(plan)
            ledger.say(f"searching: {len(todo)} trainings, {at_once} at once")
            search(plan, todo, LaunchState(ledger, students, self._meter), at_once)

    def _job(self, trial: Trial) -> TrainingJob:
        """What the trial's workers are told, and its run in MLflow."""
        plan, store, shared = self._plan, self._store, self._shared
        run, artifacts = self._tracker.start_trial(
            trial.name, trial.digest, _params(trial), {"backbone": trial.backbone.name}
        )
        self._tracker.log_prompts(run, shared.prompts.source, shared.prompts.digest, shared.prompts.prompts)
        self._ledger.add(trial, run, identity(plan, trial, shared.prompts))
        folder = f"{plan.sweep.name}/trials/{trial.digest}"
        job = TrainingJob(
            trial,
            shared.shards[encoding_key(trial)],
            shared.negatives[trial.source] if trial.train.nasa_interval is not None else None,
            shared.references[trial.source],
            store.root,
            folder,
            checkpoints_uri(artifacts, store, folder),
            plan.sweep.evaluate,
            plan.sweep.resources,
            self._capacity.node_labels(plan),
            plan.sweep.ranked_by,
        )
        store.delete(job.notice)
        return job

    def _conclude(self, failures: Sequence[str], seconds: float) -> dict[str, Any]:
        """Champions, comparison, summary and report."""
        plan, store, tracker = self._plan, self._store, self._tracker
        entries = [self._ledger.entries[trial.digest] for trial in plan.trials]
        champions = tracker.ask(lambda: assign_champion_aliases(entries, plan.sweep.ranked_by))
        rows = comparison_rows(entries, self._teachers, champions, plan.sweep.ranked_by)
        drawn = {row["digest"] for row in pictured(rows)}
        shown = [entry for entry in entries if entry.trial.digest in drawn]
        sheets = {entry.trial.name: store.read(entry.sheet) for entry in shown if entry.sheet}
        strengths = {entry.trial.name: store.read(entry.strengths) for entry in shown if entry.strengths}
        log_comparison(tracker, rows, list(sheets.values()), strengths)
        whole = summary(plan, rows, self._shared.prompts, tracker, self._meter, failures, seconds)
        result: dict[str, Any] = redact_json(whole)
        store.write_json(f"{plan.sweep.name}/summary.json", result)
        tracker.log_json(tracker.parent, result, "summary.json")
        over_seeds = self._over_seeds()
        page = report(result, sheets, strengths, over_seeds)
        store.write(f"{plan.sweep.name}/report.html", page.encode())
        tracker.log_text(tracker.parent, page, "report.html")
        return result

    def _over_seeds(self) -> Study | None:
        """What `orchestrator.report` tells, from MLflow as there, if any arm has more than one seed."""
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


def _record_launch(plan: Plan, tracker: Tracker, prompts: PromptSet, store: Store) -> str:
    """Opens the parent run with what this launch is; the run."""
    about = {"trials": len(plan.trials), "prompts": prompts.prompts, "launch": plan.digest}
    versions = {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}
    code = {"git_revision": _git_revision(), "python": platform.python_version()}
    tags = {key: str(value) for key, value in {**about, **versions, **code}.items()}
    parent = tracker.start_sweep(plan.sweep.name, store.root, tags, plan.sweep.ranked_by)
    tracker.log_json(parent, redact_json(json.loads(plan.sweep.model_dump_json())), "sweep.json")
    tracker.log_text(parent, redact("\n".join(sys.argv)), "command.txt")
    tracker.log_prompts(parent, prompts.source, prompts.digest, prompts.prompts)
    return parent


def checkpoints_uri(artifacts: str, store: Store, folder: str) -> str:
    """Where a training's checkpoints are kept: with MLflow's artifacts of its run, if workers reach these.

    They do not behind a server's proxy, nor where MLflow keeps files in a folder of the driver's
    machine; then it is the training's `folder` in the storage, from which the tracker uploads them.
    """
    return artifacts if artifacts.startswith((f"{store.root}/", *BUCKETS)) else store.uri(folder)


def _params(trial: Trial) -> dict[str, Any]:
    """The trial's settings, flat, as MLflow lists them."""
    train: dict[str, Any] = {}
    for key, value in trial.train.identity.items():
        train |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return {
        "backbone": trial.backbone.name,
        "model": trial.backbone.model,
        "start_timestep": trial.backbone.start_timestep,
        "objective": trial.train.objective,
        **({"arm": trial.arm} if trial.arm else {}),
        **train,
    }


def _git_revision() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
