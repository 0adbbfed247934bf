"""One prompt shard, as a parquet file and as tensors.

Shapes: B prompts, S tokens, D text width.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.batch import Batch

EXTRA = "more."
"""Prefix of the columns that are not part of the conditioning; stored shards have it."""


def write_shard(
    path: Path,
    prompts: list[str],
    conditioning: Conditioning,
    extra: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> None:
    """Write prompts, their conditioning and extra columns, floats in half precision; row i is prompt i.

    Args:
        prompts: B texts.
        conditioning: embeddings (B, S, D) and the other parts, each (B, ...).
        extra: further tensors (B, ...), by name.

    Raises:
        ValueError: a value of the conditioning is infinite in half precision.
    """
    columns = {"prompt": pa.array(prompts)}
    parts = {**conditioning.half().parts, **{EXTRA + name: part for name, part in extra.items()}}
    for name, part in parts.items():
        rows = part.to("cpu", _stored(name, part)).flatten(1).numpy()
        columns[name] = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), rows.shape[1])
    pq.write_table(pa.table(columns), path)


def _stored(name: str, part: torch.Tensor) -> torch.dtype:
    """Return the type in which a part is stored: half precision, int8 for masks, int64 for other integers."""
    if part.is_floating_point():
        return torch.float16
    return torch.int64 if name.startswith(EXTRA) else torch.int8


def to_batch(rows: dict[str, npt.NDArray[np.generic]], tokens: int) -> Batch:
    """Return embeddings (B, S, D) and all other columns of B rows of a shard.

    `tokens` is S: a shard stores each prompt's embeddings as one row of S * D values.
    """
    parts = {name: torch.from_numpy(np.stack(list(rows[name]))) for name in rows if name != "prompt"}
    extra = {name.removeprefix(EXTRA): parts.pop(name) for name in list(parts) if name.startswith(EXTRA)}
    embeddings = parts.pop("embeddings")
    if "mask" in parts:
        parts["mask"] = parts["mask"].long()
    return Batch(Conditioning(embeddings.view(len(embeddings), tokens, -1), **parts), columns=extra)
