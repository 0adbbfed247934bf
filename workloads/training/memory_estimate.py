"""What a step needs in memory, and its operations, told without a device and without weights.

The real step runs on tensors without content, while the storages that are alive are counted.
Attention is taken to keep no score matrix, as every fused kernel does (flash, memory-efficient, the
CPU's); an engine is stood in for by one that holds what it holds. Left out are the workspaces of
cuDNN, cuBLAS and NCCL, the device's own context, fragmentation, and what `StepSettings.compile` spares
or adds by itself.

Shapes: B batch.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from workloads.backbones.architectures import Architecture
from workloads.backbones.backbone import NETWORK_CLASSES, Backbone
from workloads.backbones.conditioning import Conditioning
from workloads.backbones.noise_schedule import NoiseSchedule
from workloads.layers.transformer_blocks import checkpoint_blocks
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.settings.train import StepSettings, TrainSettings
from workloads.students.ema import AverageWeights
from workloads.students.student import decoded_at_once, generate, new_student
from workloads.training.meta_counter import LiveBytes, fused_attention
from workloads.training.meta_kernels import META
from workloads.training.step import Engine, apply_settings, each_network, train_step

EngineFactory = Callable[[nn.Module], Engine]
"""Hashable, as `step_needs` is cached by task."""
DRAWN_AT_ONCE = 32
"""Pictures; the default of `student.generate`."""


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
    """One worker's step."""

    architecture: Architecture
    train: TrainSettings
    rows: int
    """Samples of this worker, of the `train.batch_size` of all."""
    half: bool
    """bf16, else float32."""
    settings: StepSettings
    engines: EngineFactory = PlannedPlainEngine
    """Makes the stand-in for the engine around a network; by default that of one process on its own."""
    pictures: int = 0
    """How many the worker draws between steps, as rank 0 does; it then also holds what draws them."""


@dataclass(frozen=True)
class StepNeeds:
    """Of one worker, in bytes; the first three are held all the time."""

    weights: int
    """Teacher, student and adapters; on rank 0 also the copy and the autoencoder that draw."""
    optimizer: int
    """Float32 master weights, if the engine keeps any, and both moments."""
    average: int
    """Of the student's weights, a worker's part."""
    step: int
    """The most that a step holds at any time, the above included."""
    look: int
    """The same while rank 0 draws pictures; 0 where none are drawn."""
    operations: int
    """Of one step (a multiply-add counts two), activations that are computed again included."""

    @property
    def peak(self) -> int:
        return max(self.step, self.look)


class _Worker:
    """One worker's networks and engines, made as a training group's worker makes them."""

    def __init__(self, task: StepTask, live: LiveBytes) -> None:
        self.task = task
        before = live.now
        self.backbone = _backbone(task)
        with META:
            self.student: Any = new_student(self.backbone, lora=task.train.student_lora)
            null, autoencoder = self.texts(1), partial(_autoencoder, task)
            self.objective = make_objective(self.backbone, null, task.train, task.settings, autoencoder)
        self.drawing = _drawing(task, self.student) if task.pictures else None
        self.weights = live.now - before
        self._apply(task.settings)
        self.engines, self.optimizer = live.added(self._engines)
        weights = self.engines[STUDENT].weights
        self.average, self.averaged = live.added(lambda: AverageWeights(weights, 0.0))

    def _apply(self, settings: StepSettings) -> None:
        """Compiling needs a device: what compiled blocks keep is what checkpoints keep of them."""
        if not settings.compile:
            apply_settings(self.student, self.objective, settings)
        elif settings.activation_checkpointing:
            for network, again in each_network(self.student, self.objective):
                checkpoint_blocks(network, again)

    def _engines(self) -> dict[str, Engine]:
        auxiliary = self.objective.auxiliary.items()
        networks = {STUDENT: self.student, **{name: each.module for name, each in auxiliary}}
        return {name: self.task.engines(network) for name, network in networks.items()}

    def step(self) -> None:
        """Training for one step, as `Worker._step` does it."""
        task, batch = self.task, self.task.train.batch_size
        # All workers' random numbers are drawn on each.
        draws = _rows(self.objective.draw(1, torch.Generator()), batch)[: task.rows]
        negatives = None if task.train.nasa_interval is None else self.texts(task.rows)
        widths = self.objective.columns.items()
        columns = {name: torch.empty((task.rows, width), device=META) for name, width in widths}
        train_step(self.objective, self.engines, Batch(self.texts(task.rows), negatives, columns), draws)
        self.average.update(self.engines[STUDENT].weights, 1)

    def look(self) -> None:
        """Pictures of the averaged weights, as many as are drawn or decoded at once."""
        assert self.drawing is not None
        student, autoencoder = self.drawing
        count = min(self.task.pictures, DRAWN_AT_ONCE)
        noise = torch.empty((count, *self.backbone.latent_shape), device=META)
        latents = generate(self.backbone, student, noise, self.texts(count))
        with torch.no_grad():
            autoencoder.decode(latents[: decoded_at_once(latents.shape[-1])]).sample.clamp(-1, 1)

    def texts(self, rows: int) -> Conditioning:
        """The conditioning of so many prompts."""
        return _texts(self.task.architecture, self.backbone, rows)


@lru_cache(maxsize=256)
def step_needs(task: StepTask) -> StepNeeds:
    """Runs one step without content; some seconds at SD1.5's size, whatever the batch."""
    with LiveBytes() as live, fused_attention():
        worker = _Worker(task, live)
        step, operations = live.highest(worker.step), live.operations
        look = live.highest(worker.look) if task.pictures else 0
    return StepNeeds(worker.weights, worker.optimizer, worker.averaged, step, look, operations)


def _backbone(task: StepTask) -> Backbone:
    family, dtype = task.architecture.family, torch.bfloat16 if task.half else torch.float32
    with META:
        network = NETWORK_CLASSES[family.network].from_config(json.loads(task.architecture.network))
        # The prediction that takes the most arithmetic; the tables are of no size.
        schedule = NoiseSchedule(torch.empty(1000), "v_prediction")
    nn.Module.to(network, dtype).requires_grad_(False).eval()
    return Backbone("", family, network, schedule, family.start_timestep)


def _drawing(task: StepTask, student: nn.Module) -> tuple[Any, Any]:
    return copy.deepcopy(student).requires_grad_(False).eval(), _autoencoder(task)


def _autoencoder(task: StepTask) -> Any:
    with META:
        autoencoder = AutoencoderKL.from_config(json.loads(task.architecture.autoencoder))
    return autoencoder.requires_grad_(False).eval()


def _texts(architecture: Architecture, backbone: Backbone, rows: int) -> Conditioning:
    family, config = architecture.family, backbone.config
    width = config["cross_attention_dim" if family.network == "unet" else "caption_channels"]
    embeddings = torch.empty((rows, family.tokens, width), dtype=backbone.dtype, device=META)
    mask = torch.empty((rows, family.tokens), dtype=torch.int64, device=META) if family.masked else None
    if not family.pooled:
        return Conditioning(embeddings, mask)
    # The network takes the six sizes, embedded, beside the pooled text.
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    return Conditioning(embeddings, mask, embeddings.new_empty((rows, pooled)))


def _rows(drawn: Any, count: int) -> Any:
    """Random numbers of one sample, of the same kinds and shapes for `count`, without content."""
    if isinstance(drawn, tuple):
        return tuple(_rows(item, count) for item in drawn)
    if is_dataclass(drawn) and not isinstance(drawn, type):
        return type(drawn)(**{f.name: _rows(getattr(drawn, f.name), count) for f in fields(drawn)})
    shape = (count, *drawn.shape[1:]) if drawn.dim() else ()
    return torch.empty(shape, dtype=drawn.dtype, device=META)
