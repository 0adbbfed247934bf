"""Scoring of the second search: pictures -> an actor pool of scorers -> one file of measurements per arm.

Every actor loads the weights once and then scores batches of all arms. Each arm's measurements are one file,
so an interrupted stage scores only what is missing, and a new strength is scored alone.
"""

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Infer
from orchestrator.config.gpu_sharing import holders, limit_gpu_memory
from orchestrator.jobs import InferenceJob
from orchestrator.planning.plan import DRIVER_CPUS
from workloads.settings.scorers import ScorerSettings

BATCH = 64
Columns = dict[str, Any]
"""A batch of Ray Data: columns by name."""
EXAMPLE = "example"
"""Column of the first picture (PNG) of each pair, for contact sheets; empty in other rows."""


class ReadDrawn:
    """Ray Data task that reads the pictures of an arm from the storage."""

    def __init__(self, root: str) -> None:
        self._root = root

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map a table of file names to the rows of these files."""
        store = Store(self._root)
        return pa.concat_tables(
            pq.read_table(io.BytesIO(store.read(row["file"]))) for row in table.to_pylist()
        )


class Measure:
    """Ray Data actor that holds the scorers with their weights."""

    def __init__(self, settings: Sequence[ScorerSettings], gpus: float, pictures: int) -> None:
        """Load the scorers; of the `pictures` of each pair the first is kept as an example.

        `gpus` is what Ray has assigned to this actor, of one GPU its share; without any it uses a CPU.
        """
        from workloads.scorers.catalogue import make_scorer

        limit_gpu_memory(gpus)
        self._pictures = pictures
        self._scorers = [make_scorer(each) for each in settings]
        for scorer in self._scorers:
            scorer.load("cuda" if gpus else "cpu")

    def __call__(self, batch: Columns) -> Columns:
        """Add each scorer's measurements as columns SCORER/NAME, and drop the pictures."""
        import torch

        from workloads.images import from_image
        from workloads.scorers.scorer import Request

        pngs = batch.pop("png")
        pictures = torch.stack([from_image(Image.open(io.BytesIO(png))) for png in pngs])
        first = batch["row"] % self._pictures == 0
        batch[EXAMPLE] = [png if keep else b"" for png, keep in zip(pngs, first, strict=True)]
        asked = zip(batch["prompt"], batch["negative_prompt"], batch["style"], strict=True)
        requests = [Request(str(prompt), str(negative), str(style)) for prompt, negative, style in asked]
        for scorer in self._scorers:
            measured = scorer.measure(pictures, requests)
            batch |= {f"{scorer.name}/{name}": values for name, values in measured.items()}
        return batch


def score(jobs: Sequence[InferenceJob], infer: Infer, store: Store) -> None:
    """Score the arms of `jobs` that have no measurements yet, and delete their pictures.

    Raises:
        UserError: a file of pictures is incomplete.
    """
    todo = [job for job in jobs if job.pairs and not store.exists(job.measured)]
    if not todo:
        return
    actors = ray.data.ActorPoolStrategy(min_size=1, max_size=_most_actors(infer))
    measured = (
        ray.data.from_items([{"file": job.drawn} for job in todo], override_num_blocks=len(todo))
        # Ray Data's own reader asks for whole CPUs, which trainings may hold for hours.
        .map_batches(ReadDrawn(store.root), batch_format="pyarrow", num_cpus=0, concurrency=2)
        .map_batches(
            Measure,
            fn_constructor_args=(infer.scorers, infer.gpus, todo[0].pictures),
            batch_size=BATCH,
            compute=actors,
            num_cpus=DRIVER_CPUS,
            num_gpus=infer.gpus,
        )
        .to_pandas()
    )
    for job in todo:
        arm = measured[measured["arm"] == job.infer.digest].sort_values("row")
        if len(arm) != len(job.pairs) * job.pictures:
            raise UserError(
                f"{store.uri(job.drawn)}: holds {len(arm)} pictures: delete it and run the same command"
            )
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(arm.drop(columns="arm"), preserve_index=False), content)
        store.write(job.measured, content.getvalue())
        store.delete(job.drawn)


def _most_actors(infer: Infer) -> int:
    """Return as many actors as the GPUs hold, or a quarter of the CPUs, as trainings need them more."""
    have = ray.cluster_resources()
    return max(1, holders(have.get("GPU", 0), infer.gpus) if infer.gpus else int(have.get("CPU", 0) / 4))


def load_measured(store: Store, job: InferenceJob) -> pd.DataFrame:
    """Return an arm's measurements: a row for each picture, in the order of the pairs."""
    return pq.read_table(io.BytesIO(store.read(job.measured))).to_pandas()
