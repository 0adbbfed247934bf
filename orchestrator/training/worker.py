"""One training group: the loop that every worker of a trial runs, under Ray Train.

    batch of prompts -> the objective's updates, each through its network's engine -> average

Losses stay on the device and are read every few steps, when the group also agrees on whether
the student has collapsed. Random numbers are drawn for the whole global batch from (seed, step)
and each worker takes its rows, so the number of workers changes nothing but rounding.
"""

import time
from dataclasses import replace

import ray.train
import torch
from torch import Tensor

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.shard_order import advance
from orchestrator.evaluation.evaluator import Evaluation
from orchestrator.evaluation.reference import load_reference
from orchestrator.jobs import Metrics, TrainingJob
from orchestrator.training.checkpoint.tensors import load, write_part
from orchestrator.training.deepspeed_engine import Engine, prepare_process
from orchestrator.training.startup import TrainingStart
from orchestrator.training.step_metrics import Losses
from orchestrator.training.stop_requests import StopRequests
from orchestrator.training.watchdog import Watchdog
from workloads.backbones.backbone import load_backbone
from workloads.objectives.base import SPREAD, STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.students.ema import AverageWeights
from workloads.students.student import new_student
from workloads.training.step import apply_settings, train_step


class Worker:
    """One worker's networks, engines and progress."""

    def __init__(self, job: TrainingJob, asked: float, beginning: TrainingStart) -> None:
        """`asked`: when the search asked for this training, in seconds since 1970."""
        context = ray.train.get_context()
        self.job, self.train, self._asked = job, job.trial.train, asked
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        cuda = torch.cuda.is_available() and job.resources.gpus_per_worker > 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        half = self.train.precision == "bf16" or (self.train.precision == "auto" and cuda)
        self.store = Store(job.root)
        self.checkpoints, self.progress = beginning.checkpoints, beginning.progress
        self._beginning = beginning
        prepare_process()
        torch.manual_seed(self.train.seed)
        self.backbone = load_backbone(
            job.trial.source,
            start_timestep=job.trial.backbone.start_timestep,
            device=self.device,
            dtype=torch.bfloat16 if half else torch.float32,
        )
        reference = load_reference(self.store, job.reference)
        student = new_student(self.backbone, self.train.start_from, self.train.student_lora)
        step = job.resources.step
        null = reference.null.to(self.device, self.backbone.dtype)
        self.objective = make_objective(self.backbone, null, self.train, step)
        self.evaluation = (
            Evaluation(job, self.backbone, student, reference, self.store) if self.rank == 0 else None
        )
        apply_settings(student, self.objective, step)
        self.engines = {STUDENT: Engine(student, self.train.learning_rate, self.train)}
        for name, auxiliary in self.objective.auxiliary.items():
            self.engines[name] = Engine(auxiliary.module, auxiliary.learning_rate, self.train)
        self.average = AverageWeights(self.engines[STUDENT].weights, self.train.ema_decay)
        self.notices = StopRequests(self.store, job.notice, self.rank)
        self.losses = Losses(self.train, self.world, self.objective.metric_names)

    def run(self) -> None:
        """Trains from the newest checkpoint, if there is one, to the end or to a collapse.

        Raises:
            UserError: the last checkpoint cannot be written.
        """
        self._load()
        watchdog = Watchdog(self.store, self.job.hangs, self.rank, self.job.resources.hang_timeout_s)
        try:
            if self.progress.step == self.train.steps:
                self._end_again()
            else:
                self._train(watchdog)
        finally:
            watchdog.stop()

    def _train(self, watchdog: Watchdog) -> None:
        share = self.train.batch_size // self.world
        rows = slice(self.rank * share, (self.rank + 1) * share)
        self.losses.restart_clock()
        for step, batch in enumerate(self.losses.timed(self._beginning.batches), self.progress.step + 1):
            self._step(step, batch.to(self.device, self.backbone.dtype), rows)
            position = advance(
                self.job.shards, self.train.seed, self.progress.position, self.train.batch_size
            )
            self.progress = replace(self.progress, step=step, position=position)
            if self._report(step):
                return
            watchdog.beat(step)

    def _load(self) -> None:
        """Takes up the checkpoint that was found."""
        if self._beginning.checkpoint is not None:
            with self.checkpoints.opened(self._beginning.checkpoint) as folder:
                load(folder, self.rank, self.engines, self.average)

    def _step(self, step: int, batch: Batch, rows: slice) -> None:
        """Every update of one step."""
        # One seed for the step, far apart for neighbouring steps and trainings.
        seed = int(digest([self.train.seed, step])[:15], 16)
        generator = torch.Generator(self.device).manual_seed(seed)
        draws = self.objective.draw(self.train.batch_size, generator)[rows]
        losses = train_step(self.objective, self.engines, batch, draws, step)
        self.average.update(self.engines[STUDENT].weights, step)
        self.losses.add(losses)

    def _report(self, step: int) -> bool:
        """Reports to Ray what is due after `step`; true if the training is over."""
        last = step == self.train.steps
        notice = self.notices.at(step)
        look_due = last or step in self.job.eval_steps
        checkpoint_due = look_due or bool(notice) or step % self.job.resources.checkpoint_every == 0
        if not (checkpoint_due or self.losses.due(step)):
            return False
        metrics = self.losses.read(step)
        self.notices.pace(metrics["seconds_per_step"])
        if self.progress.first_spread is None:
            self.progress = replace(self.progress, first_spread=metrics[SPREAD])
        if step == 1:
            metrics["seconds_to_first_step"] = time.time() - self._asked
        collapsed = self.losses.collapse(metrics, self.progress.first_spread)
        averaged = self._averaged() if look_due or collapsed else {}
        if self.evaluation is not None and averaged:
            metrics |= self.evaluation.look(averaged, step)
        self.progress = replace(self.progress, reports=(*self.progress.reports, dict(metrics)))
        over = last or bool(collapsed)
        if over:
            metrics |= self._finish(averaged, collapsed)
        if checkpoint_due or over:
            metrics |= self._checkpoint(needed=over)
        if notice.end and not over:
            metrics["handed_back"] = notice.reason
        ray.train.report(metrics)
        self.losses.restart_clock()
        return over or notice.end

    def _end_again(self) -> None:
        """The group died between its last checkpoint and its last words: says them again."""
        metrics: Metrics = {"step": self.progress.step, "progress": 100.0}
        averaged = self._averaged()
        if self.evaluation is not None:
            metrics |= self.evaluation.look(averaged, self.progress.step)
        ray.train.report(metrics | self._finish(averaged, ""))

    def _averaged(self) -> dict[str, Tensor]:
        """The student's averaged weights, by name, on rank 0's host; elsewhere nothing."""
        return self.engines[STUDENT].gather(self.average.weights)

    def _checkpoint(self, needed: bool) -> Metrics:
        """Writes a checkpoint; what the driver needs to know of it.

        Raises:
            UserError: it cannot be written, and there is no later one.
        """
        saved = self.checkpoints.save(
            self.progress,
            self.progress.reports[-1].get(self.job.ranked_by or ""),
            lambda folder: write_part(folder, self.rank, self.engines, self.average),
        )
        if saved.problem and needed:
            raise UserError(f"checkpoint {saved.uri} cannot be written: {saved.problem}; make room")
        if saved.problem:
            return {"notes": [f"checkpoint {saved.uri} cannot be written: {saved.problem}; training goes on"]}
        return {"checkpoint": saved.uri, "checkpoint_digest": saved.digest}

    def _finish(self, averaged: dict[str, Tensor], collapsed: str) -> Metrics:
        """Saves the averaged student, unless it has collapsed; what the driver needs to know of the end."""
        outcome: Metrics = {"finished": True, "collapsed": collapsed}
        outcome["zero_stage"] = self.engines[STUDENT].zero_stage
        if self.evaluation is not None and not collapsed:
            self.evaluation.save(averaged)
        return outcome
