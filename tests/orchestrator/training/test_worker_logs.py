"""What workers wrote is read where they ran, also of those that were killed."""

import json
import os
import signal
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from orchestrator.common.storage import Store
from orchestrator.training.worker_logs import KEPT_LINES, read_logs, register_worker

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("local_ray")]


class Worker:
    """Of a training: signs, says something, and dies."""

    def __init__(self, root: str, rank: int) -> None:
        register_worker(Store(root), "notes", f"a rank {rank}", rank)

    def say(self, lines: int) -> None:
        print(*range(lines), sep="\n", flush=True)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_logs_of_killed_workers(tmp_path: Path) -> None:
    workers = [ray.remote(Worker).options(num_cpus=0).remote(str(tmp_path), rank) for rank in (0, 1)]
    ray.get(workers[0].say.remote(5))
    ray.get(workers[1].say.remote(KEPT_LINES + 3))
    for worker in workers:
        with pytest.raises(RayActorError):
            ray.get(worker.die.remote())
    logs = read_logs(Store(str(tmp_path)), "notes")
    assert set(logs) == {f"rank-000{rank}.{kind}.txt" for rank in (0, 1) for kind in ("out", "err")}
    assert "a rank 0: process " in logs["rank-0000.out.txt"]
    assert logs["rank-0000.out.txt"].endswith("\n0\n1\n2\n3\n4\n")
    assert logs["rank-0001.out.txt"].split() == [str(line) for line in range(3, KEPT_LINES + 3)]


def test_logs_that_are_gone_are_said_to_be(tmp_path: Path) -> None:
    here, kept = ray.get_runtime_context().get_node_id(), tmp_path / "kept"
    kept.write_text("still there\n")
    logs = {"out": str(kept), "err": str(tmp_path / "lost")}
    (tmp_path / "notes").mkdir()
    for rank, node in enumerate([here, "0" * 56]):
        (tmp_path / f"notes/rank-000{rank}.json").write_text(json.dumps({"node": node, "logs": logs}))
    said = read_logs(Store(str(tmp_path)), "notes")
    assert said.pop("rank-0000.out.txt") == "still there\n"
    assert len(said) == 3
    for text in said.values():
        assert text.startswith("Ray no longer has this log: ") and text.count("\n") == 1
    assert "No such file" in said["rank-0000.err.txt"] and "node" in said["rank-0001.out.txt"].lower()
