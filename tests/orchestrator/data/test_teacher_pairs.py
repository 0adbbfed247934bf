"""Teacher pairs in the prompt shards: made on a real Ray, once, shard by shard, and read back exactly."""

from pathlib import Path

import pytest
import torch

from orchestrator.common.digests import digest
from orchestrator.common.storage import Store
from orchestrator.config.schema import Prompts
from orchestrator.data.batch_stream import BatchStream
from orchestrator.data.miniature_prompts import SEED
from orchestrator.data.prompt_encoding import encode_prompts, prepare_prompts
from orchestrator.data.shard_order import Position, ShardSet
from workloads.backbones.backbone import load_backbone
from workloads.backbones.loras.entry import TeacherSource
from workloads.miniature import WEIGHTS
from workloads.miniature.world import captions
from workloads.objectives.columns import NOISE_SEED, TEACHER_LATENTS, columns_of
from workloads.objectives.pairs import NOISE, PairMaker, noise_of
from workloads.objectives.regression import Regression
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.pairs import PairSettings

pytestmark = pytest.mark.cluster
SOURCE, ROWS = str(WEIGHTS / "pixart"), 20
TRAIN = RegressionSettings(pairs=PairSettings(steps=2, seed=3), distance="mse")


def encoded(store: Store) -> ShardSet:
    teacher = TeacherSource(SOURCE)
    columns = columns_of(TRAIN, teacher)
    prompts = prepare_prompts(Prompts(source=f"miniature:{ROWS}", rows_per_shard=8), store)
    name = digest([column.digest() for column in columns])
    return encode_prompts(prompts, teacher, name, store, False, columns)


def test_pairs_are_made_once_and_read_back(local_ray: None, tmp_path: Path) -> None:
    """A pair has the number of its row, whatever its shard; a lost shard alone is made again, the same."""
    store = Store(str(tmp_path))
    shards = encoded(store)
    (batch,) = BatchStream(store, shards, seed=0, batch=ROWS, rank=0, world=1).read_ahead(Position(), 1)
    seeds = batch.columns[NOISE_SEED]
    assert seeds.dtype == torch.int64
    assert sorted(seeds.flatten().tolist()) == [3 * 1_000_003 + row for row in range(ROWS)]
    first, made = seeds.flatten() - 3 * 1_000_003, PairMaker(TRAIN.pairs, TeacherSource(SOURCE), "cpu")
    expected = made(captions(ROWS, SEED), 0)[first]
    torch.testing.assert_close(batch.columns[TEACHER_LATENTS].float(), expected, rtol=2e-3, atol=2e-3)
    read = Regression(load_backbone(SOURCE), TRAIN, None).prepare(batch)
    assert NOISE_SEED not in read.columns
    assert torch.equal(read.columns[NOISE], noise_of(seeds.flatten(), (4, 8, 8)).flatten(1))

    kept, lost = (tmp_path / shards.file(number) for number in (0, 1))
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    assert encoded(store) == shards
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == content
