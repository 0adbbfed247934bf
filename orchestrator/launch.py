"""One launch of a sweep, stage after stage: prompts, references, search, summary."""

import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import ray

from orchestrator.errors import UserError
from orchestrator.infer import InferPlan
from orchestrator.ledger import Entry, Ledger
from orchestrator.plan import Plan, Trial
from orchestrator.prompts import PromptSet, encode_prompts, prepare_prompts
from orchestrator.reference import load_reference
from orchestrator.report import report
from orchestrator.search import search
from orchestrator.shards import ShardSet
from orchestrator.storage import Store
from orchestrator.students import Students, crown
from orchestrator.summary import comparison_rows, summary
from orchestrator.sweep import Evaluate
from orchestrator.tracking import Tracker, log_comparison
from orchestrator.trial_job import TrialJob
from workloads.encoder_files import encoder_digest
from workloads.scorers.score import Score

LIBRARIES = ("ray", "torch", "diffusers", "transformers", "deepspeed", "mlflow", "numpy")
REFERENCE_CPUS = 0.75
"""Asked for by each teacher that draws: on two CPUs two of them, and the data stage beside."""


@dataclass(frozen=True)
class Shared:
    """What the stages before the search made."""

    prompts: PromptSet
    shards: Mapping[str, ShardSet]
    """By source of the backbone; backbones with one text encoder have one."""
    negatives: Mapping[str, ShardSet]
    """The same of the negative prompts, if any trial trains with them."""
    references: Mapping[str, str]
    """By source of the backbone, names of files."""


def launch(plan: Plan, store: Store, uri: str, out: TextIO) -> dict[str, Any]:
    """Runs the sweep on the connected Ray; returns its summary, which it also writes.

    Raises:
        UserError: the cluster cannot hold a trial, no prompt is usable, tracking is down.
    """
    began = time.monotonic()
    at_once = _at_once(plan)
    tracker = Tracker(uri, plan.sweep.name, store)
    shared = _prepare(plan, store, out)
    ledger = Ledger(store, plan.sweep.name, tracker, out)
    status = "KILLED"
    try:
        _record_launch(plan, tracker, shared, store)
        teachers = {
            source: load_reference(store, name).teacher_scores for source, name in shared.references.items()
        }
        students = Students(plan, store, ledger, tracker, shared.prompts, shared.references, teachers)
        trials = [trial for trial in plan.trials if not ledger.keep(trial)]
        todo = [_job(plan, trial, tracker, ledger, shared, store) for trial in trials]
        if len(todo) < len(plan.trials):
            print(f"{len(plan.trials) - len(todo)} trials have a result already and are kept", file=out)
        for entry in [entry for entry in ledger.entries.values() if entry.status == "finished"]:
            students.ready(entry.trial)
        if todo or students.waiting:
            print(f"searching: {len(todo)} trainings, {at_once} at once", file=out, flush=True)
            search(plan, todo, ledger, students, at_once)
        failures = students.close()
        seconds = time.monotonic() - began
        result = _conclude(plan, store, tracker, ledger, shared.prompts, teachers, failures, seconds)
        status = "FAILED" if result["failed"] or failures else "FINISHED"
    finally:
        ledger.interrupted()
        tracker.close(status)
    return result


def _at_once(plan: Plan) -> int:
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    at_once = plan.trials_at_once(cpus, gpus)
    if at_once == 0:
        raise UserError(
            f"sweep {plan.sweep.name}: a trial asks for {plan.cpus_per_trial:g} CPUs and "
            f"{plan.gpus_per_trial} GPUs, the cluster has {cpus:g} and {gpus:g}: lower "
            f"resources.workers or give the cluster more"
        )
    return at_once


def _prepare(plan: Plan, store: Store, out: TextIO) -> Shared:
    """The data stage and the teachers' references, side by side."""
    gpu = plan.gpus_per_trial > 0
    sources = list(dict.fromkeys(trial.source for trial in plan.trials))
    make = ray.remote(_make_reference).options(num_cpus=REFERENCE_CPUS, num_gpus=1 if gpu else 0)
    print(f"drawing with {len(sources)} teachers, reading prompts", file=out, flush=True)
    pending = [make.remote(source, plan.sweep.evaluate, plan.infer, store.root) for source in sources]
    prompts = prepare_prompts(plan.sweep.prompts, store)
    print(
        f"prompts: {prompts.prompts} used, {prompts.set_aside} set aside"
        + (f", see {store.uri(prompts.folder)}/set_aside.jsonl" if prompts.set_aside else ""),
        file=out,
        flush=True,
    )
    shards = {
        source: encode_prompts(prompts, source, encoder_digest(source), store, gpu) for source in sources
    }
    negatives = {}
    if plan.sweep.negative_prompts is not None and plan.trains_with_negatives:
        found = prepare_prompts(plan.sweep.negative_prompts, store)
        print(f"negative prompts: {found.prompts} used, {found.set_aside} set aside", file=out, flush=True)
        negatives = {
            source: encode_prompts(found, source, encoder_digest(source), store, gpu) for source in sources
        }
    folders = len({found.folder for found in shards.values()})
    print(f"shards: {len(prompts.rows)} for each of {folders} text encoders", file=out, flush=True)
    try:
        references = dict(zip(sources, ray.get(pending), strict=True))
    except ray.exceptions.RayTaskError as error:
        raise UserError(str(error.cause)) from None
    return Shared(prompts, shards, negatives, references)


def _make_reference(source: str, evaluate: Evaluate, infer: InferPlan | None, root: str) -> str:
    """Imports in the task, not in the driver, what loads diffusers whole."""
    from orchestrator.teacher_reference import make_reference

    return make_reference(source, evaluate, infer, root)


def _record_launch(plan: Plan, tracker: Tracker, shared: Shared, store: Store) -> None:
    sweep = plan.sweep
    params = {
        "trials": len(plan.trials),
        "prompts": shared.prompts.prompts,
        "workers": sweep.resources.workers,
    }
    versions = {f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES}
    tags = {**versions, "git_revision": _git_revision(), "python": platform.python_version()}
    parent = tracker.start_launch(f"launch {plan.digest}", plan.digest, params, tags)
    tracker.log_json(parent, json.loads(sweep.model_dump_json()), "sweep.json")
    tracker.log_text(parent, "\n".join(sys.argv), "command.txt")
    tracker.log_prompts(parent, shared.prompts.source, shared.prompts.digest, shared.prompts.prompts)
    print(f"tracking: experiment {sweep.name}, parent run {parent}", flush=True)


def _job(
    plan: Plan, trial: Trial, tracker: Tracker, ledger: Ledger, shared: Shared, store: Store
) -> TrialJob:
    flat = {key: value for key, value in asdict(trial.train).items() if key != "lora"}
    lora = {f"lora.{key}": value for key, value in asdict(trial.train.lora).items()}
    params = {
        "backbone": trial.backbone.name,
        "model": trial.backbone.model,
        "start_timestep": trial.backbone.start_timestep,
        **flat,
        **lora,
    }
    run = tracker.start_trial(trial.name, trial.digest, params, {"backbone": trial.backbone.name})
    tracker.log_prompts(run, shared.prompts.source, shared.prompts.digest, shared.prompts.prompts)
    ledger.add(trial, run)
    folder = f"{plan.sweep.name}/trials/{trial.digest}"
    artifacts = tracker.artifact_uri(run)
    # Behind a server's proxy Ray cannot write; then the storage keeps what the tracker uploads.
    proxied = artifacts.startswith(("mlflow-artifacts:", "http:", "https:"))
    checkpoints = store.uri(folder) if proxied else artifacts
    return TrialJob(
        trial,
        shared.shards[trial.source],
        shared.negatives[trial.source] if trial.train.nasa_interval is not None else None,
        shared.references[trial.source],
        store.root,
        folder,
        checkpoints,
        plan.sweep.evaluate,
        plan.sweep.resources,
    )


def _conclude(
    plan: Plan,
    store: Store,
    tracker: Tracker,
    ledger: Ledger,
    prompts: PromptSet,
    teachers: Mapping[str, Sequence[Score]],
    failures: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Champions, comparison, summary and report."""
    entries: list[Entry] = [ledger.entries[trial.digest] for trial in plan.trials]
    champions = crown(entries)
    rows = comparison_rows(entries, teachers, champions)
    sheets = {entry.trial.name: store.read(entry.sheet) for entry in entries if entry.sheet}
    strengths = {entry.trial.name: store.read(entry.strengths) for entry in entries if entry.strengths}
    log_comparison(tracker, rows, list(sheets.values()), strengths)
    result = summary(plan, rows, prompts, tracker, failures, seconds)
    store.write_json(f"{plan.sweep.name}/summary.json", result)
    tracker.log_json(tracker.parent, result, "summary.json")
    page = report(result, sheets, strengths)
    store.write(f"{plan.sweep.name}/report.html", page.encode())
    tracker.log_text(tracker.parent, page, "report.html")
    return result


def _git_revision() -> str:
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
