"""What a trial's workers wrote to their logs: whose it is, and a copy that outlives the cluster.

Ray keeps a process's log on the node that it runs on. So each worker leaves a note of who it is and
where it writes, and when a trial has failed a task on that node reads what the last of them wrote.
"""

import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.common.storage import Store

LINES = 2000
"""Of a log, the last so many are kept."""
SECONDS = 20
"""For which a node is waited for."""


def sign(store: Store, folder: str, who: str, rank: int) -> None:
    """Leaves this worker's note in `folder`, and has its log say who wrote it, from the first line on."""
    node = ray.get_runtime_context().get_node_id()
    print(f"{who}: process {os.getpid()} on node {node}", flush=True)
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s", force=True)
    worker: Any = ray._private.worker.global_worker
    logs = {"out": worker.get_out_file_path(), "err": worker.get_err_file_path()}
    store.write_json(f"{folder}/rank-{rank:04d}.json", {"node": node, "logs": logs})


def read_logs(store: Store, folder: str) -> dict[str, str]:
    """Of each worker that left a note in `folder`, the end of its logs, by name of a file."""
    found = {}
    for name in store.files(folder):
        note = store.read_json(name)
        stem = name.rsplit("/", 1)[-1].removesuffix(".json")
        for kind, text in _fetch(note["node"], note["logs"]).items():
            found[f"{stem}.{kind}.txt"] = text
    return found


def _fetch(node: str, logs: dict[str, str]) -> dict[str, str]:
    """The end of each of the `logs`, read on `node`."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_ends).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    try:
        ends: dict[str, str] = ray.get(task.remote(logs), timeout=SECONDS)
    except RayError as error:
        # Gone with its node, most likely.
        return dict.fromkeys(logs, _gone(error))
    return ends


def _ends(logs: dict[str, str]) -> dict[str, str]:
    return {kind: _end(Path(path)) for kind, path in logs.items()}


def _end(log: Path) -> str:
    try:
        with log.open(errors="replace") as lines:
            return "".join(deque(lines, maxlen=LINES))
    except OSError as error:
        return _gone(error)


def _gone(error: Exception) -> str:
    return f"Ray has no log of it any more: {str(error).splitlines()[0][:300]}\n"
