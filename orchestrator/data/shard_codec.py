"""One prompt shard, as a parquet file and as tensors. Shapes: B prompts, S tokens, D text width."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from workloads.backbones.conditioning import Conditioning
from workloads.objectives.batch import Batch

MORE = "more."
"""Begins the names of columns that are no part of the conditioning."""


def write_shard(
    path: Path,
    prompts: list[str],
    conditioning: Conditioning,
    more: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Writes prompts, their conditioning and what `more` there is, in half precision; row i is prompt i."""
    columns = {"prompt": pa.array(prompts)}
    for name, part in {**conditioning.parts, **{MORE + name: part for name, part in more.items()}}.items():
        rows = part.to("cpu", torch.float16 if part.is_floating_point() else torch.int8).flatten(1).numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), rows.shape[1])
    pq.write_table(pa.table(columns), path)


def to_batch(rows: dict[str, npt.NDArray[np.generic]], tokens: int) -> Batch:
    """Embeddings (B, S, D), and what there is besides, of rows as they stand in a shard."""
    parts = {name: torch.from_numpy(np.stack(list(rows[name]))) for name in rows if name != "prompt"}
    more = {name.removeprefix(MORE): parts.pop(name) for name in list(parts) if name.startswith(MORE)}
    embeddings = parts.pop("embeddings")
    if "mask" in parts:
        parts["mask"] = parts["mask"].long()
    return Batch(Conditioning(embeddings.view(len(embeddings), tokens, -1), **parts), columns=more)
