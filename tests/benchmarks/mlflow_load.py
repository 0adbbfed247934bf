"""A sweep of many trials that computes nothing: plan, ledger and tracker are real, what they hear is not.

Numbers are drawn from a seeded generator, pictures are small and different from trial to trial.
"""

import io
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from unittest.mock import Mock, patch

import mlflow
import numpy as np
import psutil
import torch

from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.data.shard_order import ShardSet
from orchestrator.evaluation.strength_curve import best
from orchestrator.execution import launch
from orchestrator.execution.preparation import Shared, encoding_key
from orchestrator.jobs import Ended, StepReport, TrainingJob, WorkerReport
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.reporting.rows import ArmRow
from orchestrator.results.record import TrialRecord
from orchestrator.tracking.client import Tracker
from orchestrator.tracking.strength_curve import log_curve
from tests.infra.manifests import REPOSITORY
from workloads.images import contact_sheet
from workloads.scorers.score import Score

PER_SEED = 6
"""Trials of sweeps/miniature.yaml."""
CURVES = ("student_loss", "fake_score_loss", "score_gap", "latent_spread", "seconds_per_step",
          "samples_per_second", "seconds_to_first_step", "system/data_wait_percentage",
          "system/cpu_utilization_percentage", "system/process_memory_megabytes",
          "system/gpu_peak_memory_megabytes")  # fmt: skip
SCORES = ("attribute_accuracy", "accuracy_background", "accuracy_colour", "accuracy_position",
          "accuracy_shape", "accuracy_size", "frechet_distance", "precision", "recall", "clip_plus",
          "clip_minus", "fid", "fid_precision", "fid_recall", "hps_v2.1")  # fmt: skip
ARM_SCORES = ("negative_rate", "prompt_accuracy", "removal_rate", "accuracy_lost", "clip_plus", "clip_minus")
"""Of each of four kernels: with the others 50 metrics a trial."""
WAITING = 500
"""Records that may wait when the next trial ends: a training is slower than its records."""
PROMPTS = PromptSet("miniature:2048", "0" * 16, "prompts/0", (512,) * 4, 2048, 0)

SHARDS = ShardSet("prompts/0", PROMPTS.rows, ("0",) * 4, 77, 32)


@dataclass
class Loaded:
    """What loading a sweep came to."""

    trials: int
    parent: str = ""
    experiment: str = ""
    runs: list[str] = field(default_factory=list)
    seconds: float = 0.0
    """Until all is recorded, without what follows."""
    conclude_seconds: float = 0.0
    most_waiting: int = 0
    restart_seconds: float = 0.0
    """For which a launch that takes the sweep up asks what MLflow knows."""
    driver_bytes: int = 0
    """By which this process has grown."""


def planned(trials: int, name: str) -> Plan:
    """sweeps/miniature.yaml with as many seeds as it takes."""
    seeds = list(range(-(-trials // PER_SEED)))
    overrides = [f"name={name}", f"train.seed={{values: {seeds}}}", "train.steps=90"]
    plan = make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml", overrides))
    return replace(plan, trials=plan.trials[:trials])


class Pretender:
    """Reports what trainings and second searches would, of every trial of a plan."""

    def __init__(self, plan: Plan, uri: str, root: str) -> None:
        self.plan, self.store = plan, Store(root)
        self.tracker = Tracker(uri, plan.sweep.name, self.store)
        self.numbers = np.random.default_rng(0)
        self.models: set[str] = set()
        sources = dict.fromkeys((trial.teacher for trial in plan.trials), "reference")
        shards = {
            encoding_key(trial): ShardSet("prompts/0", PROMPTS.rows, ("0",) * 4, 77, 32)
            for trial in plan.trials
        }
        shared, teacher = Shared(PROMPTS, shards, {}, sources), Mock(teacher_scores=self.scores(SCORES))
        # What Ray would have made before the search.
        with patch.multiple(
            launch, prepare=Mock(return_value=shared), load_reference=Mock(return_value=teacher)
        ):
            self.launch = launch._Launch(plan, self.store, self.tracker, Capacity(()))
        self.ledger = self.launch._ledger

    def load(self, points: int) -> Loaded:
        """Every trial, each with so many points a curve, to the end of the sweep."""
        found, memory, began = (
            Loaded(len(self.plan.trials)),
            psutil.Process().memory_info().rss,
            time.monotonic(),
        )
        self.launch._start_parent_run()
        found.parent, found.experiment = self.tracker.parent, self.tracker.experiment
        jobs = [self.launch._job(trial) for trial in self.plan.trials]
        for count, job in enumerate(jobs):
            self.train(job, points)
            found.runs.append(self.ledger.records[job.trial.digest].run)
            while (waiting := self.tracker._queue.waiting) > WAITING:
                time.sleep(0.05)
            found.most_waiting = max(found.most_waiting, waiting)
            if count % 100 == 99:
                print(f"{count + 1} trials, {time.monotonic() - began:.0f} s", flush=True)
        self.settle()
        found.seconds = time.monotonic() - began
        self.conclude()
        self.settle()
        found.conclude_seconds = time.monotonic() - began - found.seconds
        found.driver_bytes = psutil.Process().memory_info().rss - memory
        self.tracker.close("FINISHED")
        return found

    def take_up(self) -> None:
        """As a launch of the finished sweep does: finds every trial's run again."""
        self.launch._start_parent_run()
        assert all(self.ledger.restore(trial, keep_stopped=True) for trial in self.plan.trials)
        self.settle()
        self.tracker.close("FINISHED")

    def train(self, job: TrainingJob, points: int) -> None:
        """One training and the second search of its student."""
        record, steps = self.ledger.records[job.trial.digest], job.trial.train.steps
        self.ledger.started(job)
        looks = job.eval_steps
        for step in sorted({round(steps * (i + 1) / points) for i in range(points)} | looks):
            values = np.exp(-step / steps) + 0.1 * self.numbers.standard_normal(len(CURVES))
            report = StepReport(step, dict(zip(CURVES, values.tolist(), strict=True)))
            if step in looks:
                file = f"{job.folder}/sheet-{step}.png"
                report = replace(report, scores=tuple(self.scores(SCORES)), sheet=file)
                self.store.write(file, self.picture(8, 2))
            self.ledger.reported(job, WorkerReport((report,)))
        self.ledger.reported(job, WorkerReport((Ended(zero_stage=2),)))
        self.ledger.ended(job, "")
        assert self.plan.infer is not None
        arms = [ArmRow(guidance, tuple(self.scores(ARM_SCORES))) for guidance in self.plan.infer.arms]
        record.curve, record.best = arms, best(arms, 1)
        record.strengths, sheet = f"{job.folder}/strengths.png", self.picture(8, len(arms))
        self.store.write(record.strengths, sheet)
        self.ledger.write(record)
        log_curve(self.tracker, record.run, record.curve, record.best, {"negative_prompts.png": sheet})
        self.tracker.then(partial(self.register, record))

    def register(self, record: TrialRecord) -> None:
        """A version without files: one student's are 3 MB and take seconds."""
        client, name = self.tracker.client, f"{self.plan.sweep.name}-{record.trial.backbone.name}"
        if name not in self.models:
            self.models.add(name)
            client.create_registered_model(name)
        source = f"mlflow-artifacts:/{self.tracker.experiment}/{record.run}/artifacts/student"
        made = client.create_model_version(name, source, record.run, {"identity": "pretended"})
        record.model = f"models:/{name}/{made.version}"

    def conclude(self) -> None:
        """As a launch does at its end: champions, comparison, summary, report."""
        mlflow.set_tracking_uri(self.tracker.uri)
        self.launch._conclude([], 1.0)

    def settle(self) -> None:
        """Waits until all is recorded that was given."""
        done = threading.Event()
        self.tracker.then(done.set)
        done.wait()

    def scores(self, names: Sequence[str]) -> list[Score]:
        values = self.numbers.uniform(0.4, 1.0, len(names))
        return [
            Score(name, value, 256, max(0.0, value - 0.03), min(1.0, value + 0.03), "pretended")
            for name, value in zip(names, values.tolist(), strict=True)
        ]

    def picture(self, rows: int, columns: int) -> bytes:
        """A contact sheet of noise of 32 pixels, as the miniatures draw."""
        drawn = torch.from_numpy(self.numbers.uniform(-1, 1, (columns, rows, 3, 32, 32)).astype("float32"))
        prompts = list(self.plan.sweep.evaluate.sheet_prompts)[:rows]
        named = {f"arm {i}": arm for i, arm in enumerate(drawn)}
        content = io.BytesIO()
        contact_sheet(prompts, named).save(content, "png")
        return content.getvalue()
