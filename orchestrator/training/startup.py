"""The start of a training group, before its networks load: the checkpoint to resume from, and the prompts.

Networks and the prompt reader take seconds to start, in two processes, so this module loads no network's code
and starts the reader first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import ray.train

from orchestrator.common.collectives import from_rank_0
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.batch_stream import BatchStream, missing_shard
from orchestrator.data.shard_order import START, Position, ShardSet, advance
from orchestrator.jobs import Event, Resumed, TrainingJob, WorkerReport
from orchestrator.training.checkpoint.manifest import OLDEST, Progress
from orchestrator.training.checkpoint.store import CheckpointStore
from orchestrator.training.watchdog import collect_hang_reports
from workloads.objectives.batch import Batch


@dataclass(frozen=True)
class TrainingStart:
    """One worker's starting point of a training."""

    checkpoints: CheckpointStore
    progress: Progress
    checkpoint: str | None
    """Name of the checkpoint that `progress` comes from; None for a new training."""
    batches: Iterator[Batch]
    """This worker's rows of each remaining global batch; the first one is being read."""


def send(*events: Event, progress: float = 0.0) -> None:
    """Report events from every worker; the driver receives those of rank 0."""
    ray.train.report(WorkerReport(events, progress).to_tune())


def prepare_training(job: TrainingJob) -> TrainingStart:
    """Find the checkpoint to resume from and start reading prompts; all workers call this together.

    Raises:
        UserError: a prompt shard is missing, or the newest checkpoint was trained on other prompts.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    _check_shards(job, rank)
    checkpoints = CheckpointStore(
        Store(job.checkpoints),
        "checkpoints",
        rank=rank,
        keep=job.resources.keep_checkpoints,
        oldest_layout=OLDEST[job.trial.train.student_lora is not None],
    )
    name, notes = checkpoints.newest()
    progress = Progress(prompts=job.shards.digest)
    if name is not None:
        progress = checkpoints.progress(name)
        if progress.prompts != job.shards.digest:
            raise UserError(f"checkpoint {name}: was trained on other prompts than prompts.source holds now")
    if rank == 0:
        notes += collect_hang_reports(Store(job.root), job.hangs)
    send(Resumed(progress.step, tuple(notes), progress.reports))
    return TrainingStart(checkpoints, progress, name, remaining_batches(job, progress, rank, world))


def _check_shards(job: TrainingJob, rank: int) -> None:
    missing = from_rank_0(missing_shard(Store(job.root), job.shards) if rank == 0 else None)
    if missing is not None:
        raise UserError(
            f"prompt shard {missing}: is missing, or was set aside because it had changed: the same command "
            f"encodes it again"
        )


def remaining_batches(job: TrainingJob, progress: Progress, rank: int, world: int) -> Iterator[Batch]:
    """Return this worker's rows of each remaining global batch, with negative prompts under NASA-T."""
    train = job.trial.train
    remaining = train.steps - progress.step

    def read(shards: ShardSet, start: Position) -> Iterator[Batch]:
        return BatchStream(
            Store(job.root), shards, seed=train.seed, batch=train.batch_size, rank=rank, world=world
        ).read_ahead(start, remaining)

    prompts = read(job.shards, progress.position)
    if job.negatives is None:
        return prompts
    start = advance(job.negatives, train.seed, START, progress.step * train.batch_size)
    pairs = zip(prompts, read(job.negatives, start), strict=False)
    return (replace(batch, negatives=negative.prompts) for batch, negative in pairs)
