"""Logs of a trial's workers: each worker registers its log files, and the driver copies them on a failure.

Ray keeps a process's log on the node that it runs on. So each worker writes its node and its log files to the
storage, and after a failure a task on that node reads what the last workers logged. The copy outlives the
cluster.
"""

import logging
import os
from collections import deque
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.common.storage import Store

KEPT_LINES = 2000
"""Last lines of a log that are kept."""
NODE_TIMEOUT_SECONDS = 20


def register_worker(store: Store, folder: str, label: str, rank: int) -> None:
    """Write this worker's node and log files to `folder`, and name the worker in its own log.

    Args:
        store: the storage.
        folder: folder of the trial's workers in the storage.
        label: sweep, trial and rank, as log lines show them.
        rank: this worker's rank.
    """
    node = ray.get_runtime_context().get_node_id()
    print(f"{label}: process {os.getpid()} on node {node}", flush=True)
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {label} %(name)s: %(message)s", force=True)
    store.write_json(f"{folder}/rank-{rank:04d}.json", {"node": node, "logs": _own_logs()})


def _own_logs() -> dict[str, str]:
    """Return the files that Ray has redirected this process's output to; none where /proc does not exist."""
    links = {name: Path(f"/proc/self/fd/{number}") for name, number in (("out", 1), ("err", 2))}
    return {name: os.readlink(link) for name, link in links.items() if link.exists()}


def read_logs(store: Store, folder: str) -> dict[str, str]:
    """Return the end of each registered worker's logs, by file name."""
    found = {}
    for name in store.files(folder):
        worker = store.read_json(name)
        stem = name.rsplit("/", 1)[-1].removesuffix(".json")
        for kind, text in _fetch(worker["node"], worker["logs"]).items():
            found[f"{stem}.{kind}.txt"] = text
    return found


def _fetch(node: str, logs: dict[str, str]) -> dict[str, str]:
    """Read the end of each of the `logs` on `node`."""
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_ends).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
    try:
        ends: dict[str, str] = ray.get(task.remote(logs), timeout=NODE_TIMEOUT_SECONDS)
    except RayError as error:
        # Most likely the node is gone, and its logs with it.
        return dict.fromkeys(logs, _lost(error))
    return ends


def _ends(logs: dict[str, str]) -> dict[str, str]:
    return {kind: _end(Path(path)) for kind, path in logs.items()}


def _end(log: Path) -> str:
    try:
        with log.open(errors="replace") as lines:
            return "".join(deque(lines, maxlen=KEPT_LINES))
    except OSError as error:
        return _lost(error)


def _lost(error: Exception) -> str:
    return f"Ray no longer has this log: {str(error).splitlines()[0][:300]}\n"
