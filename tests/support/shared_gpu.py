"""Trainings that share a GPU which a real Ray only counts: `python -m tests.support.shared_gpu FOLDER`.

Each is the product's training group with a loop that computes nothing. It waits until as many run as fit on
the GPU, and notes its time and what Ray has assigned to it in FOLDER/SHARE/NUMBER.json.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray

from orchestrator.config.schema import Resources
from orchestrator.execution import ray_cluster, trainable

ROUNDS = ((0.25, 4), (0.5, 3))
"""Share of each training, and number of trainings."""
WAIT_SECONDS, HOLD_SECONDS = 60.0, 1.0


def loop(config: dict[str, Any]) -> None:
    """Run in place of `train_worker`."""
    folder, number, share = config["job"]
    began, context = time.time(), ray.get_runtime_context()
    (folder / f"{number}.begun").touch()
    while len([*folder.glob("*.begun")]) < round(1 / share) and time.time() < began + WAIT_SECONDS:
        time.sleep(0.05)
    time.sleep(HOLD_SECONDS)
    assigned = {
        "gpus": context.get_accelerator_ids()["GPU"],
        "share": context.get_assigned_resources()["GPU"],
    }
    (folder / f"{number}.json").write_text(json.dumps({"time": [began, time.time()], **assigned}))


class Trial:
    """A trial's process."""

    def train(self, folder: Path, number: int, share: float) -> None:
        """Start a training group in this process, and wait for its end."""
        job: Any = SimpleNamespace(
            resources=Resources(gpus_per_worker=share),
            node_labels={},
            on_one_node=True,
            root=str(folder),
            folder=f"train-{number}",
        )
        trainer = trainable._trainer(job, 0.0)
        trainer.train_loop_per_worker, trainer.train_loop_config = loop, {"job": (folder, number, share)}
        trainer.fit()


def main(root: Path) -> None:
    """Run both rounds on a Ray of the product's own with a GPU that is not there."""
    ray_cluster._init = partial(ray_cluster._init, num_cpus=4, num_gpus=1)
    with ray_cluster.connected():
        trials = [ray.remote(num_cpus=0)(Trial).remote() for _ in range(max(count for _, count in ROUNDS))]
        for share, count in ROUNDS:
            folder = root / f"{share:g}"
            folder.mkdir()
            chosen = enumerate(trials[:count])
            ray.get([trial.train.remote(folder, number, share) for number, trial in chosen])


if __name__ == "__main__":
    # By its full name, so that Ray's processes import this module and pickle nothing of it.
    from tests.support import shared_gpu

    shared_gpu.main(Path(sys.argv[1]))
