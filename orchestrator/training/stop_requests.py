"""Requests to a running training: to stop, or to write a checkpoint because a node is going away.

The driver asks for a stop by a file in the storage (the sweep is being interrupted, or the trial is
pruned); Ray announces nodes that are being drained. Either way the group writes a checkpoint at once. All
workers must act at the same step, so they poll together, every few steps.
"""

import os
from dataclasses import dataclass

import ray.train

from orchestrator.common.collectives import from_rank_0
from orchestrator.common.storage import Store

POLL_SECONDS = 2.0
"""Approximate time between two polls."""
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Ray's variable that turns the announcement of drained nodes off with the value 0."""


@dataclass(frozen=True)
class StopRequest:
    """A request to the group; false if there is none."""

    reason: str = ""
    end: bool = False
    """True to stop after the checkpoint; false to continue while the node lasts."""

    def __bool__(self) -> bool:
        return bool(self.reason)


class StopRequests:
    """The requests to one group; every worker polls after every step."""

    def __init__(self, store: Store, file: str, rank: int) -> None:
        """Watch for `file` in the storage, which holds the driver's reason."""
        self._store, self._file, self._rank = store, file, rank
        self._every = 1
        self._known: list[str] = []
        """Nodes that are known to be going away: each causes one checkpoint."""

    def pace(self, seconds: float) -> None:
        """Set the number of steps between two polls from a step's duration, equal on all workers."""
        self._every = max(1, round(POLL_SECONDS / max(seconds, 1e-3)))

    def poll(self, step: int) -> StopRequest:
        """Return the request that is pending after `step`, the same on all workers."""
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
