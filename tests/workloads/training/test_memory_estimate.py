"""The estimate of a step's memory against the allocator's own figures, on the miniature teachers."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from tests.benchmarks.memory import peak_bytes
from workloads.backbones.architectures import PUBLISHED, SHIPPED, Architecture, architecture_of
from workloads.backbones.backbone import Backbone, load_backbone, network_kind
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.transformer_blocks import compile_blocks
from workloads.miniature import CLIP, TEACHERS, WEIGHTS
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.objectives.terms import AdversarialSettings, ClipLossSettings
from workloads.settings.train import LoraSettings, StepSettings, TrainSettings
from workloads.students.ema import AverageWeights
from workloads.students.schedulers import with_student_steps
from workloads.students.student import new_student
from workloads.training.memory_estimate import (
    EngineFactory,
    PlannedPlainEngine,
    StepNeeds,
    StepTask,
    step_needs,
)
from workloads.training.step import apply_settings, make_engines, train_step

TOLERANCE = 0.02
"""Relative error; the documentation promises 10 %, and the estimate is almost exact."""
LORA = LoraSettings(rank=16, alpha=16, targets=("to_q", "to_k", "to_v", "to_out.0"))


def miniature(name: str) -> Architecture:
    found = architecture_of(str(WEIGHTS / name))
    assert found is not None
    return found


def texts(backbone: Backbone, rows: int) -> Conditioning:
    family, kind, config = backbone.family, backbone.kind, backbone.config
    embeddings = torch.randn(rows, family.tokens + family.added_tokens, kind.text_width(config)).to(
        backbone.dtype
    )
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long) if family.masked else None
    pooled = torch.randn(rows, kind.pooled_width(config)).to(backbone.dtype) if family.pooled else None
    return Conditioning(embeddings, mask, pooled)


def train_twice(name: str, train: TrainSettings, settings: StepSettings) -> None:
    """Load and train for two steps: AdamW's moments exist from the start of the second one."""
    backbone = with_student_steps(load_backbone(str(WEIGHTS / name)), train.student_steps)
    student = new_student(backbone, lora=train.student_lora, neutral_scale=train.neutral_scale)
    objective = make_objective(backbone, texts(backbone, 1), train, settings)
    apply_settings(student, objective, settings)
    engines = make_engines(student, objective, train)
    average = AverageWeights(engines[STUDENT].weights, train.ema_decay)
    generator, rows = torch.Generator().manual_seed(0), train.batch_size
    for step in (1, 2):
        draws = objective.draw(rows, generator)
        negatives = texts(backbone, rows) if train.trains_with_negatives else None
        columns = {name: torch.randn(rows, width) for name, width in objective.columns.items()}
        train_step(objective, engines, Batch(texts(backbone, rows), negatives, columns), draws, step)
        average.update(engines[STUDENT].weights, step)


def planned(name: str, train: TrainSettings, settings: StepSettings) -> StepNeeds:
    return step_needs(StepTask(miniature(name), train, train.batch_size, half=False, settings=settings))


@pytest.mark.parametrize(
    ("name", "batch", "checkpointing"),
    [
        *((name, *step) for name in TEACHERS for step in ((4, False), (16, True))),
        # The other two of a UNet, of cross-attention and of joint attention: a peak is linear in the batch.
        *((name, *step) for name in ("unet-epsilon", "pixart", "sd3") for step in ((4, True), (16, False))),
    ],
)
def test_estimate_matches_a_real_step(name: str, batch: int, checkpointing: bool) -> None:
    train = PGSBSettings(batch_size=batch, lora=LORA)
    settings = StepSettings(activation_checkpointing=checkpointing)
    measured = peak_bytes(lambda: train_twice(name, train, settings))
    assert planned(name, train, settings).peak == pytest.approx(measured, rel=TOLERANCE)


COMPILED = [
    # The estimate is 16 % below what torch's partitioner keeps of joint attention (2026-11-30).
    pytest.param(name, marks=[pytest.mark.xfail(strict=True), pytest.mark.slow]) if name == "sd3" else name
    for name in TEACHERS
]


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.heavy
def test_estimate_matches_a_compiled_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses a backend of torch that partitions like the default one, and then compiles nothing."""
    fast = partial(compile_blocks, backend="aot_eager_decomp_partition")
    monkeypatch.setattr("workloads.training.step.compile_blocks", fast)
    train = PGSBSettings(batch_size=16, lora=LORA)
    settings = StepSettings(activation_checkpointing=True, compile=True)
    torch._dynamo.reset()
    measured = peak_bytes(lambda: train_twice(name, train, settings))
    assert planned(name, train, settings).peak == pytest.approx(measured, rel=TOLERANCE)
    assert measured < 0.8 * planned(name, train, StepSettings()).peak


READS_SCALE = PGSBSettings(guidance_interval=(1.0, 7.5), guided="teacher", guidance_input=True)
GAN = RegressionSettings(batch_size=16, adversarial=AdversarialSettings())
OTHERS = [
    ("masked roles", PGSBSettings(batch_size=16, lora=LORA), StepSettings(score_batch="all")),
    ("each alone", PGSBSettings(batch_size=16, lora=LORA), StepSettings(score_batch="prediction")),
    ("NASA-T", PGSBSettings(batch_size=8, lora=LORA, nasa_interval=(0, 1)), StepSettings()),
    ("two updates", PGSBSettings(batch_size=8, lora=LORA, fake_score_updates=2), StepSettings()),
    ("BOOT", BootSettings(batch_size=16), StepSettings()),
    ("a CLIP loss", PGSBSettings(batch_size=16, lora=LORA, clip=ClipLossSettings(CLIP)), StepSettings()),
    ("a LoRA student", PGSBSettings(batch_size=16, lora=LORA, student_lora=LORA), StepSettings()),
    (
        "three masked roles",
        PGSBSettings(batch_size=8, lora=LORA, student_lora=LORA, nasa_interval=(0, 1)),
        StepSettings(score_batch="all"),
    ),
    ("all layers", PGSBSettings(batch_size=8, lora=replace(LORA, targets=("all",))), StepSettings()),
    ("a guidance input", replace(READS_SCALE, batch_size=16, lora=LORA), StepSettings(score_batch="all")),
    ("regression", RegressionSettings(batch_size=16), StepSettings()),
    ("a discriminator", GAN, StepSettings()),
    ("a recomputed discriminator", GAN, StepSettings(activation_checkpointing=True)),
    ("two steps", PGSBSettings(batch_size=16, lora=LORA, student_steps=2), StepSettings()),
]


@pytest.mark.parametrize(("train", "settings"), [row[1:] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_estimate_matches_other_objectives_and_settings(train: TrainSettings, settings: StepSettings) -> None:
    measured = peak_bytes(lambda: train_twice("pixart", train, settings))
    # NASA-T's keys and values are in a reference cycle, which lives until the garbage collector runs.
    tolerance = 0.1 if train.trains_with_negatives else TOLERANCE
    assert planned("pixart", train, settings).peak == pytest.approx(measured, rel=tolerance)


@pytest.mark.parametrize("source", PUBLISHED)
def test_three_roles_need_little_more_than_one_network(source: str) -> None:
    """Teacher, fake score and adapter student in bf16: weights, both optimisers and the average."""
    architecture = architecture_of(source)
    assert architecture is not None
    train = PGSBSettings(batch_size=1, student_lora=LoraSettings())
    needs = step_needs(StepTask(architecture, train, 1, True, StepSettings(activation_checkpointing=True)))
    with torch.device("meta"):
        kind: Any = network_kind(architecture.family).model
        network = kind.from_config(json.loads(architecture.network))
    one = 2 * sum(parameter.numel() for parameter in network.parameters())
    assert one < needs.weights + needs.optimizer + needs.average < 1.3 * one


def published(
    source: str,
    rows: int = 2,
    settings: StepSettings | None = None,
    engines: EngineFactory = PlannedPlainEngine,
    student_steps: Literal[1, 4] = 1,
) -> StepNeeds:
    """Return the needs of one of four workers in bf16, which also samples pictures."""
    architecture = architecture_of(source)
    assert architecture is not None
    train = PGSBSettings(batch_size=4 * rows, student_steps=student_steps)
    task = StepTask(architecture, train, rows, True, settings or StepSettings(), engines, pictures=8)
    return step_needs(task)


SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
FORWARDS = {SD15: 0.803, "PixArt-alpha/PixArt-XL-2-512x512": 1.236}
"""10^12 operations of one forward pass, from torch's own counter."""


@pytest.mark.parametrize("source", FORWARDS)
def test_operations_are_nine_forward_passes_per_sample(source: str) -> None:
    """Student 3, teacher 2, fake score 2 and its training 2; adapters add a little."""
    assert published(source).operations / 2e12 == pytest.approx(9 * FORWARDS[source], rel=0.05)


def test_four_steps_are_one_and_a_half_forward_passes_more() -> None:
    """The mean of 0, 1, 2 and 3, which draw the input of the trained step; nothing of them is kept."""
    one, four = (published(SD15, student_steps=steps) for steps in (1, 4))
    more = four.operations - one.operations
    assert more / 2e12 == pytest.approx(1.5 * FORWARDS[SD15], rel=0.01)
    assert four.step == pytest.approx(one.step, rel=0.01)


def test_checkpointing_trades_memory_for_operations() -> None:
    kept, recomputed = published(SD15, 8), published(SD15, 8, StepSettings(activation_checkpointing=True))
    held = kept.weights + kept.optimizer + kept.average
    assert recomputed.step - held < 0.5 * (kept.step - held), "activations and gradients"
    assert recomputed.operations > 1.1 * kept.operations
    assert recomputed.weights == kept.weights and recomputed.optimizer == kept.optimizer


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_backbones_need_no_download(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert architecture_of(source) is not None


def test_unknown_sources_have_no_architecture(tmp_path: Path) -> None:
    assert architecture_of("nobody/nothing") is None
    assert architecture_of("no id: no such folder") is None
    assert architecture_of(str(tmp_path)) is None
    assert architecture_of(str(SHIPPED)) is None


def test_needs_are_cached_by_task() -> None:
    published(SD15)
    before = step_needs.cache_info().hits
    published(SD15)
    assert step_needs.cache_info().hits == before + 1
