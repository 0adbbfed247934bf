"""One training group: the loop that every worker of a trial runs, under Ray Train.

    batch of prompts -> objective's losses -> student's engine, fake score's engine -> average

Losses stay on the device and are read every few steps, when the group also agrees on whether
the student has collapsed. Random numbers are drawn for the whole global batch from (seed, step)
and each worker takes its rows, so the number of workers changes nothing but rounding.
"""

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path

import psutil
import ray.train
import torch
from torch import Tensor

from orchestrator.checkpoint import START, Progress, load_checkpoint, save_checkpoint
from orchestrator.engine import Engine, prepare_process
from orchestrator.evaluation import Evaluation
from orchestrator.identity import digest
from orchestrator.reference import load_reference
from orchestrator.shards import Position, ShardSet, advance
from orchestrator.storage import Store, file_digest
from orchestrator.stream import stream
from orchestrator.trial_job import Metrics, TrialJob
from workloads.backbone import load_backbone
from workloads.conditioning import Conditioning
from workloads.ema import AverageWeights
from workloads.lora import FakeScore
from workloads.objectives import PGSB
from workloads.student import new_student

LOGS_PER_TRAINING = 30
MOST_STEPS_BETWEEN_LOGS = 50


class Worker:
    """One worker's networks, engines and progress."""

    def __init__(self, job: TrialJob) -> None:
        prepare_process()
        context = ray.train.get_context()
        self.job, self.train = job, job.trial.train
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        cuda = torch.cuda.is_available() and job.resources.gpus_per_worker > 0
        self.device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
        half = self.train.precision == "bf16" or (self.train.precision == "auto" and cuda)
        self.store = Store(job.root)
        torch.manual_seed(self.train.seed)
        self.backbone = load_backbone(
            job.trial.source,
            start_timestep=job.trial.backbone.start_timestep,
            device=self.device,
            dtype=torch.bfloat16 if half else torch.float32,
        )
        reference = load_reference(self.store, job.reference)
        student = new_student(self.backbone, self.train.start_from)
        self.fake_score = FakeScore(self.backbone.network, self.train.lora)
        null = self._moved(reference.null)
        self.objective = PGSB(self.backbone, null, self.train)
        self.average = AverageWeights(student, self.train.ema_decay) if self.rank == 0 else None
        self.evaluation = (
            Evaluation(job, self.backbone, student, reference, self.store) if self.rank == 0 else None
        )
        self.student_engine = Engine(student, self.train.learning_rate, self.train)
        self.fake_engine = Engine(self.fake_score, self.train.fake_score_learning_rate, self.train)
        self.progress = Progress()
        self._pending: list[Tensor] = []
        self._clock = time.monotonic()

    def run(self) -> None:
        """Trains from the newest checkpoint, if there is one, to the end or to a collapse."""
        self._resume()
        first = self.progress.step
        share = self.train.batch_size // self.world
        rows = slice(self.rank * share, (self.rank + 1) * share)
        remaining = self.train.steps - first
        if remaining == 0:
            self._end_again()
            return
        prompts = self._stream(self.job.shards, self.progress.position, remaining)
        negatives: Iterator[Conditioning | None] = repeat(None)
        if self.job.negatives is not None:
            read = first * self.train.batch_size
            start = advance(self.job.negatives, self.train.seed, START, read)
            negatives = self._stream(self.job.negatives, start, remaining)
        self._clock = time.monotonic()
        pairs = islice(zip(prompts, negatives, strict=False), remaining)
        for step, (batch, negative) in enumerate(pairs, first + 1):
            self._step(step, self._moved(batch), None if negative is None else self._moved(negative), rows)
            position = advance(
                self.job.shards, self.train.seed, self.progress.position, self.train.batch_size
            )
            self.progress = replace(self.progress, step=step, position=position)
            if self._report(step):
                return

    def _stream(self, shards: ShardSet, start: Position, steps: int) -> Iterator[Conditioning]:
        """This worker's rows of `steps` global batches of `shards`."""
        train = self.train
        return stream(self.store, shards, train.seed, start, steps, train.batch_size, self.rank, self.world)

    def _resume(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.progress = load_checkpoint(
                    Path(folder), self.student_engine, self.fake_engine, self.average
                )

    def _step(self, step: int, prompts: Conditioning, negatives: Conditioning | None, rows: slice) -> None:
        """One update of the student and its updates of the fake score."""
        # One seed for the step, far apart for neighbouring steps and trainings.
        seed = int(digest([self.train.seed, step])[:15], 16)
        generator = torch.Generator(self.device).manual_seed(seed)
        draws = self.objective.draw(self.train.batch_size, generator)[rows]
        outcome = self.objective.student_loss(self.student_engine, self.fake_score, prompts, draws, negatives)
        self.student_engine.step(outcome.loss)
        for update in draws.fake_score:
            loss = self.objective.fake_score_loss(self.fake_engine, outcome.latents, prompts, update)
            self.fake_engine.step(loss)
        if self.average is not None:
            self.average.update(self.student_engine.module, step)
        spread = outcome.latents.std(dim=0).mean()
        self._pending.append(torch.stack([outcome.loss, loss, outcome.score_gap, spread]).detach().float())

    def _report(self, step: int) -> bool:
        """Reports to Ray what is due after `step`; true if the training is over."""
        last = step == self.train.steps
        checkpoint_due = last or step % self.job.resources.checkpoint_every == 0
        look_due = last or step in self.job.look_steps
        if not (checkpoint_due or look_due or step % self._log_every() == 0 or step == 1):
            return False
        metrics = self._losses(step)
        collapsed = self._collapse(metrics)
        last = last or bool(collapsed)
        if self.evaluation is not None and (look_due or collapsed):
            assert self.average is not None
            metrics |= self.evaluation.look(self.average, step)
        if self.evaluation is not None and last:
            metrics |= self._finish(collapsed)
        self._send(metrics, checkpoint_due or last)
        self._clock = time.monotonic()
        return last

    def _end_again(self) -> None:
        """The group died between its last checkpoint and its last words: says them again."""
        metrics: Metrics = {"step": self.progress.step, "progress": 100.0}
        if self.evaluation is not None:
            assert self.average is not None
            metrics |= self.evaluation.look(self.average, self.progress.step) | self._finish("")
        self._send(metrics, with_checkpoint=True)

    def _log_every(self) -> int:
        return min(max(1, self.train.steps // LOGS_PER_TRAINING), MOST_STEPS_BETWEEN_LOGS)

    def _losses(self, step: int) -> Metrics:
        """Means over the steps since the last report, and over the workers."""
        values = torch.stack(self._pending).mean(0)
        seconds = (time.monotonic() - self._clock) / len(self._pending)
        self._pending.clear()
        torch.distributed.all_reduce(values)
        loss, fake, gap, spread = (values / self.world).tolist()
        if self.progress.first_spread is None:
            self.progress = replace(self.progress, first_spread=spread)
        metrics: Metrics = {
            "step": step,
            "progress": 100 * step / self.train.steps,
            "student_loss": loss,
            "fake_score_loss": fake,
            "score_gap": gap,
            "latent_spread": spread,
            "seconds_per_step": seconds,
            "samples_per_second": self.train.batch_size / seconds,
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_memory_megabytes": psutil.Process().memory_info().rss / 2**20,
        }
        if self.device.type == "cuda":
            metrics["system/gpu_peak_memory_megabytes"] = torch.cuda.max_memory_allocated() / 2**20
        return metrics

    def _collapse(self, metrics: Metrics) -> str:
        """The stated rule, in words, if the student has collapsed by it; the same on all ranks."""
        if not all(math.isfinite(metrics[key]) for key in ("student_loss", "fake_score_loss", "score_gap")):
            return f"non-finite loss by step {metrics['step']}"
        first = self.progress.first_spread or 1.0
        ratio, limit = metrics["latent_spread"] / first, self.train.collapse_ratio
        if limit and not limit <= ratio <= 1 / limit:
            return f"pictures vary {ratio:.3g} times what they did at first, by step {metrics['step']}"
        return ""

    def _finish(self, collapsed: str) -> Metrics:
        """Saves the student, unless it has collapsed; what the driver needs to know of the end."""
        outcome: Metrics = {"finished": True, "collapsed": collapsed}
        outcome["zero_stage"] = self.student_engine.zero_stage
        if not collapsed:
            assert self.evaluation is not None and self.average is not None
            self.evaluation.save(self.average)
        return outcome

    def _send(self, metrics: Metrics, with_checkpoint: bool) -> None:
        if not with_checkpoint:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            save_checkpoint(
                path, self.rank, self.student_engine, self.fake_engine, self.average, self.progress
            )
            metrics["checkpoint_digest"] = file_digest(path / f"digests-{self.rank:04d}.json")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _moved(self, conditioning: Conditioning) -> Conditioning:
        return conditioning.to(self.device, self.backbone.dtype)
