"""Processes of one process group, as the workers of a training group are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed
from torch.multiprocessing.spawn import spawn


def start_workers(count: int, work: Callable[..., None], folder: Path, *arguments: Any) -> Callable[[], None]:
    """Runs `work(rank, folder, *arguments)` in `count` processes; what is returned waits for all.

    That raises what any of them raised.
    """
    given = (count, work, str(folder), *arguments)
    processes: Any = spawn(_worker, given, nprocs=count, join=False)  # type: ignore[no-untyped-call]

    def wait() -> None:
        while not processes.join():
            pass

    return wait


def _worker(rank: int, count: int, work: Callable[..., None], folder: str, *arguments: Any) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
    work(rank, folder, *arguments)
    distributed.barrier()
    # DeepSpeed keeps the group, destroyed or not, and a thread of gloo's that lets go of its last
    # tensor when the interpreter has already ended aborts the process (pytorch #179291).
    os._exit(0)
