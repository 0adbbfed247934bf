"""What a training group does before it loads its networks: it finds where to go on, and has prompts read.

Both networks and reader take seconds to begin with, in two processes; so this loads no network's code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import ray.train

from orchestrator.common.collectives import from_rank_0
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.batch_stream import missing_shard, prefetch_first, stream
from orchestrator.data.shard_order import START, Position, ShardSet, advance
from orchestrator.jobs import TrainingJob
from orchestrator.training.checkpoint.manifest import Progress
from orchestrator.training.checkpoint.store import CheckpointStore
from orchestrator.training.watchdog import collect_hang_reports
from workloads.objectives.batch import Batch


@dataclass(frozen=True)
class TrainingStart:
    """Where one worker's part of a training begins."""

    checkpoints: CheckpointStore
    progress: Progress
    checkpoint: str | None
    """The checkpoint that says so, by name, if there is one."""
    batches: Iterator[Batch]
    """This worker's rows of each global batch that remains, the first of them on its way."""


def begin(job: TrainingJob) -> TrainingStart:
    """Called by every worker at the same time; tells the driver.

    Raises:
        UserError: a prompt shard is not there, or the newest checkpoint is of other prompts.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    _check_shards(job, rank)
    kept = job.resources.keep_checkpoints
    checkpoints = CheckpointStore(Store(job.checkpoints), "checkpoints", rank, kept)
    name, notes = checkpoints.newest()
    progress = Progress(prompts=job.shards.digest)
    if name is not None:
        progress = checkpoints.progress(name)
        if progress.prompts != job.shards.digest:
            raise UserError(f"checkpoint {name} was trained on other prompts than those of now")
    if rank == 0:
        notes += collect_hang_reports(Store(job.root), job.hangs)
        first_words = {"resumed": progress.step, "notes": notes}
        ray.train.report({**first_words, "history": list(progress.reports)})
    else:
        ray.train.report({})
    return TrainingStart(checkpoints, progress, name, _batches(job, progress, rank, world))


def _check_shards(job: TrainingJob, rank: int) -> None:
    missing = from_rank_0(missing_shard(Store(job.root), job.shards) if rank == 0 else None)
    if missing is not None:
        raise UserError(
            f"prompt shard {missing} has changed and was set aside, or is gone: "
            f"the same command makes it anew"
        )


def _batches(job: TrainingJob, progress: Progress, rank: int, world: int) -> Iterator[Batch]:
    """This worker's rows of every global batch that remains, under NASA-T with negative prompts."""
    train = job.trial.train
    remaining = train.steps - progress.step

    def read(shards: ShardSet, start: Position) -> Iterator[Batch]:
        batches = stream(Store(job.root), shards, train.seed, start, remaining, train.batch_size, rank, world)
        # Of a training that is over nothing is read.
        return prefetch_first(islice(batches, remaining))

    prompts = read(job.shards, progress.position)
    if job.negatives is None:
        return prompts
    start = advance(job.negatives, train.seed, START, progress.step * train.batch_size)
    pairs = zip(prompts, read(job.negatives, start), strict=False)
    return (replace(batch, negatives=negative.prompts) for batch, negative in pairs)
