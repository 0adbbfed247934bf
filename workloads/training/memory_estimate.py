"""Estimate of a training step's memory and operations, without a device and without weights.

    StepTask -> _Worker (networks, engines, average on "meta") -> one real step, counted -> StepNeeds

The real step runs on tensors without content while a `MemoryCounter` adds up the live storages. Attention
keeps no score matrix, as in every fused kernel (flash, memory-efficient, the CPU's), and stand-ins that hold
the same tensors replace the engines. Not counted are the workspaces of cuDNN, cuBLAS and NCCL, the device's
context, fragmentation, and what `StepSettings.compile` saves or adds by itself.

Shapes: B batch, T tokens, D text width, H latent size.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from workloads.backbones.architectures import Architecture
from workloads.backbones.autoencoders import AUTOENCODERS, decode_latents, latent_size
from workloads.backbones.backbone import Backbone, network_kind
from workloads.backbones.noise_schedule import NoiseSchedule
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.lora import AdapterSet
from workloads.layers.transformer_blocks import checkpoint_blocks
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.settings.train import StepSettings, TrainSettings
from workloads.students.ema import AverageWeights
from workloads.students.student import SAMPLE_BATCH, decode_batch_size, generate, new_student
from workloads.training.meta_counter import MemoryCounter, fused_attention
from workloads.training.meta_kernels import META
from workloads.training.step import Engine, apply_settings, each_network, recompute_auxiliary, train_step

EngineFactory = Callable[[nn.Module], Engine]
"""Makes the stand-in for the engine around a network; hashable, as `step_needs` is cached by task."""


class PlannedPlainEngine:
    """Stand-in for `step.PlainEngine`: holds its memory from the second step on, updates nothing."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._moments = [torch.empty_like(p) for p in self.weights.values() for _ in range(2)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        """Back-propagate the scalar `loss` and drop the gradients."""
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.weights.values():
            parameter.grad = None


@dataclass(frozen=True)
class StepTask:
    """One worker's training step."""

    architecture: Architecture
    train: TrainSettings
    rows: int
    """Samples of this worker; `train.batch_size` counts those of all workers."""
    half: bool
    """True for bf16, false for float32."""
    settings: StepSettings
    engines: EngineFactory = PlannedPlainEngine
    """Engines of the worker; by default those of a process on its own."""
    pictures: int = 0
    """Pictures that the worker samples between steps, as rank 0 does; it also holds networks for that."""


@dataclass(frozen=True)
class StepNeeds:
    """Memory of one worker in bytes, and its operations; the first three are held all the time."""

    weights: int
    """Teacher, student and adapters; on rank 0 also the sampler's copy of a whole student and the
    autoencoder."""
    optimizer: int
    """Both moments of AdamW, and the float32 master weights if the engine keeps any."""
    average: int
    """Moving average of the student's weights, or this worker's shard of it."""
    step: int
    """Peak during a step, with the three above."""
    sampling: int
    """Peak while rank 0 samples pictures, with the three above; 0 for a worker that samples none."""
    operations: int
    """Operations of one step, recomputed activations included; a multiply-add counts as two. A mean, if the
    steps of the training differ."""

    @property
    def peak(self) -> int:
        """Largest number of bytes that the worker holds at any time."""
        return max(self.step, self.sampling)


class _Worker:
    """One worker's networks and engines on "meta", made in the order in which a real worker makes them."""

    def __init__(self, task: StepTask, counter: MemoryCounter) -> None:
        self.task = task
        before = counter.now
        self.backbone = _backbone(task)
        with META:
            train = task.train
            self.student: Any = new_student(
                self.backbone, lora=train.student_lora, neutral_scale=train.neutral_scale
            )
            null, autoencoder = self.texts(1), partial(_autoencoder, task)
            self.objective = make_objective(self.backbone, null, task.train, task.settings, autoencoder)
        self.sampler = _sampler(task, self.student) if task.pictures else None
        self.weight_bytes = counter.now - before
        self._apply(task.settings)
        self.engines, self.optimizer_bytes = counter.measure_held(self._engines)
        weights = self.engines[STUDENT].weights
        self.average, self.average_bytes = counter.measure_held(lambda: AverageWeights(weights, 0.0))

    def _apply(self, settings: StepSettings) -> None:
        """Apply the step settings; compiled blocks, which need a device, keep what checkpointed ones keep."""
        if not settings.compile:
            apply_settings(self.student, self.objective, settings)
        elif settings.activation_checkpointing:
            for network, checkpoint in each_network(self.student, self.objective):
                checkpoint_blocks(network, checkpoint)
            recompute_auxiliary(self.objective)

    def _engines(self) -> dict[str, Engine]:
        auxiliary = self.objective.auxiliary.items()
        networks = {STUDENT: self.student, **{name: each.module for name, each in auxiliary}}
        return {name: self.task.engines(network) for name, network in networks.items()}

    def step(self, number: int) -> None:
        """Train for step `number` (from 1), as a worker of the orchestrator does."""
        task, batch = self.task, self.task.train.batch_size
        # Every worker draws the random numbers of the global batch.
        draws = _rows(self.objective.draw(1, torch.Generator()), batch)[: task.rows]
        negatives = self.texts(task.rows) if task.train.trains_with_negatives else None
        widths = self.objective.columns.items()
        columns = {name: torch.empty((task.rows, width), device=META) for name, width in widths}
        given = Batch(self.texts(task.rows), negatives, columns)
        train_step(self.objective, self.engines, given, draws, number)
        self.average.update(self.engines[STUDENT].weights, 1)

    def sample(self) -> None:
        """Generate one batch of latents with the averaged weights and decode one batch of them."""
        assert self.sampler is not None
        student, autoencoder = self.sampler
        count = min(self.task.pictures, SAMPLE_BATCH)
        noise = torch.empty((count, self.backbone.student_steps, *self.backbone.latent_shape), device=META)
        prompts = self.texts(count)
        if self.task.train.read_scales:
            prompts = prompts.at_scale(torch.empty(count, device=META))
        latents = generate(self.backbone, student, noise, prompts)
        with torch.no_grad():
            decode_latents(autoencoder, latents[: decode_batch_size(latents.shape[-1])]).clamp(-1, 1)

    def texts(self, rows: int) -> Conditioning:
        """Return the conditioning of `rows` prompts."""
        return _texts(self.task.architecture, self.backbone, rows)


@lru_cache(maxsize=256)
def step_needs(task: StepTask) -> StepNeeds:
    """Run one step on "meta" and return its needs; takes seconds at SD1.5's size, whatever the batch."""
    with MemoryCounter() as counter, fused_attention():
        worker = _Worker(task, counter)
        step, operations = _measure_steps(worker, counter, task.train.student_steps)
        sampling = counter.measure_peak(worker.sample) if task.pictures else 0
    return StepNeeds(
        worker.weight_bytes, worker.optimizer_bytes, worker.average_bytes, step, sampling, operations
    )


@lru_cache(maxsize=256)
def call_operations(architecture: Architecture, half: bool) -> int:
    """Return the operations of one call of the teacher's network for one prompt, as `StepNeeds` counts."""
    task = StepTask(architecture, TrainSettings(), 1, half, StepSettings())
    with MemoryCounter() as counter, fused_attention(), torch.no_grad():
        backbone = _backbone(task)
        latents = torch.empty((1, *backbone.latent_shape), device=META)
        timestep = torch.empty(1, dtype=torch.long, device=META)
        before = counter.operations
        backbone.predict(backbone.network, latents, timestep, _texts(architecture, backbone, 1))
        return int(counter.operations - before)


def _measure_steps(worker: _Worker, counter: MemoryCounter, steps: int) -> tuple[int, int]:
    """Return the peak and the mean operations of the training's steps.

    They train the student's `steps` in turn, each with one more call of it than the one before: the first and
    the last tell the mean.
    """
    peaks, operations = [], []
    for number in sorted({1, steps}):
        before = counter.operations
        peaks.append(counter.measure_peak(partial(worker.step, number)))
        operations.append(counter.operations - before)
    return max(peaks), sum(operations) // len(operations)


def _backbone(task: StepTask) -> Backbone:
    family, dtype = task.architecture.family, torch.bfloat16 if task.half else torch.float32
    with META:
        kind: Any = network_kind(family).model
        network = kind.from_config(json.loads(task.architecture.network))
        # v prediction takes the most arithmetic; the tables of the schedule are negligible.
        schedule, rungs = (
            NoiseSchedule.variance_preserving(torch.empty(count), "v_prediction")
            for count in (1000, task.train.student_steps)
        )
    nn.Module.to(network, dtype).requires_grad_(False).eval()
    config = json.loads(task.architecture.autoencoder)
    size = latent_size(network.config, config, AUTOENCODERS[family.autoencoder])
    opened = Backbone("", family, network, schedule, family.start_timestep, latent_size=size)
    return opened if task.train.student_steps == 1 else replace(opened, rungs=rungs)


def _sampler(task: StepTask, student: nn.Module) -> tuple[Any, Any]:
    """Return the networks that sample pictures: a whole student's copy or adapters, and the autoencoder."""
    if isinstance(student, AdapterSet):
        return student, _autoencoder(task)
    return copy.deepcopy(student).requires_grad_(False).eval(), _autoencoder(task)


def _autoencoder(task: StepTask) -> Any:
    with META:
        kind: Any = AUTOENCODERS[task.architecture.family.autoencoder].model
        autoencoder = kind.from_config(json.loads(task.architecture.autoencoder))
    return autoencoder.requires_grad_(False).eval()


def _texts(architecture: Architecture, backbone: Backbone, rows: int) -> Conditioning:
    """Return embeddings (rows, T, D) without content, with the mask or pooled text that the family takes."""
    family, kind, config = architecture.family, backbone.kind, backbone.config
    shape, dtype = (rows, family.tokens + family.added_tokens), backbone.dtype
    embeddings = torch.empty((*shape, kind.text_width(config)), dtype=dtype, device=META)
    mask = torch.empty(shape, dtype=torch.int64, device=META) if family.masked else None
    pooled = embeddings.new_empty((rows, kind.pooled_width(config))) if family.pooled else None
    return Conditioning(embeddings, mask, pooled)


def _rows(drawn: Any, count: int) -> Any:
    """Return the random numbers of one sample, (1, ...) each, as (count, ...) tensors without content."""
    if isinstance(drawn, tuple):
        return tuple(_rows(item, count) for item in drawn)
    if is_dataclass(drawn) and not isinstance(drawn, type):
        return type(drawn)(**{f.name: _rows(getattr(drawn, f.name), count) for f in fields(drawn)})
    shape = (count, *drawn.shape[1:]) if drawn.dim() else ()
    return torch.empty(shape, dtype=drawn.dtype, device=META)
