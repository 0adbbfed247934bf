"""What a training is told while it runs: that its machine is going away, or to end.

Ray tells of the first (a node that is drained); the driver, by a file in the storage, of the second
(the sweep is being interrupted, the trial is pruned). Either way the group writes a checkpoint at
once. All workers must act at the same step, so they ask together, every few steps.
"""

import os
from dataclasses import dataclass

import ray.train

from orchestrator.common.collectives import from_rank_0
from orchestrator.common.storage import Store

SECONDS = 2.0
"""Between two looks, about."""
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


@dataclass(frozen=True)
class StopRequest:
    """What the group was told."""

    reason: str = ""
    end: bool = False
    """Whether to end after the checkpoint, or to go on for as long as it lasts."""

    def __bool__(self) -> bool:
        return bool(self.reason)


class StopRequests:
    """Asked by every worker after every step."""

    def __init__(self, store: Store, file: str, rank: int) -> None:
        self._store, self._file, self._rank = store, file, rank
        self._every = 1
        self._known: list[str] = []
        """Nodes that are known to go away: each is worth one checkpoint."""

    def pace(self, seconds: float) -> None:
        """Steps take so long; the same on all workers."""
        self._every = max(1, round(SECONDS / max(seconds, 1e-3)))

    def at(self, step: int) -> StopRequest:
        """What was told by now, the same on all workers."""
        if step % self._every:
            return StopRequest()
        reason = from_rank_0(self._from_driver() if self._rank == 0 else "")
        return StopRequest(reason, end=True) if reason else self._from_ray()

    def _from_driver(self) -> str:
        return self._store.read(self._file).decode() if self._store.exists(self._file) else ""

    def _from_ray(self) -> StopRequest:
        if os.environ.get(WATCHER) == "0":
            return StopRequest()
        info = ray.train.get_preemption_info()
        if info is None or info.preempted_node_ids == self._known:
            return StopRequest()
        self._known = info.preempted_node_ids
        return StopRequest(f"a node of ranks {info.preempted_ranks} is going away")
