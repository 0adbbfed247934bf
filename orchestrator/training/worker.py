"""One worker of a training group: the training loop that Ray Train runs.

    batch of prompts -> the objective's updates, each through its network's engine -> average of weights

Losses stay on the device and are read every few steps, when the group also checks together whether the
student has collapsed. Random numbers are drawn for the whole global batch from (seed, step), and each worker
takes its rows, so the number of workers changes nothing but rounding.
"""

import time
from dataclasses import replace

import ray.train
import torch
from torch import Tensor

from orchestrator.common.devices import process_device
from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.gpu_sharing import limit_gpu_memory
from orchestrator.data.shard_order import advance
from orchestrator.evaluation.evaluator import Evaluator
from orchestrator.evaluation.reference import load_reference
from orchestrator.jobs import (
    CheckpointFailed,
    CheckpointWritten,
    Ended,
    Event,
    HandedBack,
    StepReport,
    TrainingJob,
)
from orchestrator.training.checkpoint.tensors import load, write_part
from orchestrator.training.deepspeed_engine import Engine, prepare_process
from orchestrator.training.startup import TrainingStart, send
from orchestrator.training.step_metrics import StepMetrics
from orchestrator.training.stop_requests import StopRequests
from orchestrator.training.watchdog import Watchdog
from workloads.backbones.backbone import load_backbone
from workloads.objectives.base import SPREAD, STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.students.ema import AverageWeights
from workloads.students.schedulers import with_student_steps
from workloads.students.student import new_student
from workloads.training.step import apply_settings, train_step


class TrainWorker:
    """One worker's networks, engines and progress."""

    def __init__(self, job: TrainingJob, asked: float, start: TrainingStart) -> None:
        """Load the networks and wrap them in engines; all workers do this together.

        Args:
            job: the training.
            asked: time at which the search asked for this training, in seconds since 1970.
            start: the checkpoint to resume from, and the prompts.
        """
        context = ray.train.get_context()
        self.job, self.train, self._asked = job, job.trial.train, asked
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        cuda = process_device() == "cuda" and job.resources.gpus_per_worker > 0
        if cuda:
            limit_gpu_memory(job.resources.gpus_per_worker)
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        half = self.train.precision == "bf16" or (self.train.precision == "auto" and cuda)
        self.store = Store(job.root)
        self.checkpoints, self.progress = start.checkpoints, start.progress
        self._start = start
        prepare_process()
        torch.manual_seed(self.train.seed)
        opened = load_backbone(
            job.trial.source,
            start_timestep=job.trial.backbone.start_timestep,
            device=self.device,
            dtype=torch.bfloat16 if half else torch.float32,
            loras=job.trial.loras,
        )
        self.backbone = with_student_steps(opened, self.train.student_steps)
        reference = load_reference(self.store, job.reference)
        train = self.train
        student = new_student(self.backbone, train.start_from, train.student_lora, train.neutral_scale)
        null = reference.null.to(self.device, self.backbone.dtype)
        self.objective = make_objective(self.backbone, null, self.train, job.resources.step)
        self.evaluator = (
            Evaluator(job, self.backbone, student, reference, self.store) if self.rank == 0 else None
        )
        apply_settings(student, self.objective, job.resources.step)
        self.engines = {STUDENT: Engine(student, self.train.learning_rate, self.train)}
        for name, auxiliary in self.objective.auxiliary.items():
            self.engines[name] = Engine(
                auxiliary.module, auxiliary.learning_rate, self.train, auxiliary.adam_betas
            )
        self.average = AverageWeights(self.engines[STUDENT].weights, self.train.ema_decay)
        self.stop_requests = StopRequests(self.store, job.stop_request, self.rank)
        self.metrics = StepMetrics(self.train, self.world, self.objective.metric_names)

    def run(self) -> None:
        """Train from the newest checkpoint, if there is one, to the end or to a collapse.

        Raises:
            UserError: the last checkpoint cannot be written.
        """
        if self._start.checkpoint is not None:
            with self.checkpoints.opened(self._start.checkpoint) as folder:
                load(folder, self.rank, self.engines, self.average)
        watchdog = Watchdog(
            self.store, self.job.hangs, rank=self.rank, timeout=self.job.resources.hang_timeout_s
        )
        try:
            if self.progress.step == self.train.steps:
                self._repeat_end()
            else:
                self._train(watchdog)
        finally:
            watchdog.stop()

    def _train(self, watchdog: Watchdog) -> None:
        share = self.train.batch_size // self.world
        rows = slice(self.rank * share, (self.rank + 1) * share)
        self.metrics.restart_clock()
        for step, batch in enumerate(self.metrics.timed(self._start.batches), self.progress.step + 1):
            self._step(step, self.objective.prepare(batch).to(self.device, self.backbone.dtype), rows)
            position = advance(
                self.job.shards, self.train.seed, self.progress.position, self.train.batch_size
            )
            self.progress = replace(self.progress, step=step, position=position)
            if self._report(step):
                return
            watchdog.beat(step)

    def _step(self, step: int, batch: Batch, rows: slice) -> None:
        """Do every update of one step."""
        # A digest, so that the seeds of neighbouring steps and trainings are far apart.
        seed = int(digest([self.train.seed, step])[:15], 16)
        generator = torch.Generator(self.device).manual_seed(seed)
        draws = self.objective.draw(self.train.batch_size, generator)[rows]
        losses = train_step(self.objective, self.engines, batch, draws, step)
        self.average.update(self.engines[STUDENT].weights, step)
        self.metrics.add(losses)

    def _report(self, step: int) -> bool:
        """Report to Ray whatever is due after `step`; return true if the training is over."""
        last = step == self.train.steps
        request = self.stop_requests.poll(step)
        evaluate = last or step in self.job.eval_steps
        checkpoint = evaluate or bool(request) or step % self.job.resources.checkpoint_every == 0
        if not (checkpoint or self.metrics.due(step)):
            return False
        metrics = self._read_metrics(step)
        collapsed = self.metrics.collapse(metrics, step, self.progress.first_spread)
        averaged = self._averaged() if evaluate or collapsed else {}
        report = StepReport(step, metrics)
        if self.evaluator is not None and averaged:
            report = self.evaluator.evaluate(averaged, step).merged(report)
        self.progress = replace(self.progress, reports=(*self.progress.reports, report))
        over = last or bool(collapsed)
        events: list[Event] = [report]
        if over:
            events.append(self._finish(averaged, collapsed))
        if checkpoint or over:
            events.append(self._checkpoint(needed=over))
        if request.end and not over:
            events.append(HandedBack(request.reason))
        send(*events, progress=100 * step / self.train.steps)
        self.metrics.restart_clock()
        return over or request.end

    def _read_metrics(self, step: int) -> dict[str, float]:
        metrics = self.metrics.read()
        self.stop_requests.pace(metrics["seconds_per_step"])
        if self.progress.first_spread is None:
            self.progress = replace(self.progress, first_spread=metrics[SPREAD])
        if step == 1:
            metrics["seconds_to_first_step"] = time.time() - self._asked
        return metrics

    def _repeat_end(self) -> None:
        """Report the end once more: the group died between its last checkpoint and its last report."""
        averaged = self._averaged()
        report = StepReport(self.progress.step, {})
        if self.evaluator is not None:
            report = self.evaluator.evaluate(averaged, self.progress.step)
        send(report, self._finish(averaged, ""), progress=100.0)

    def _averaged(self) -> dict[str, Tensor]:
        """Return the student's averaged weights, by name, on rank 0's host; empty on other ranks."""
        return self.engines[STUDENT].gather(self.average.weights)

    def _checkpoint(self, needed: bool) -> CheckpointWritten | CheckpointFailed:
        """Write a checkpoint; a failure is an error only if the checkpoint is `needed`.

        Raises:
            UserError: a needed checkpoint cannot be written.
        """
        saved = self.checkpoints.save(
            self.progress,
            self.progress.reports[-1].score(self.job.ranked_by),
            lambda folder: write_part(folder, self.rank, self.engines, self.average),
        )
        if isinstance(saved, CheckpointFailed) and needed:
            raise UserError(
                f"checkpoint {saved.uri}: cannot be written: {saved.problem}; free some space, then run the "
                f"same command"
            )
        return saved

    def _finish(self, averaged: dict[str, Tensor], collapsed: str) -> Ended:
        """Save the averaged student unless it has collapsed."""
        if self.evaluator is not None and not collapsed:
            self.evaluator.save(averaged)
        return Ended(self.engines[STUDENT].zero_stage, collapsed)
