"""One step of training on one worker: the updates of its objective, one after the other.

    objective -> loss of a network -> that network's engine -> objective -> loss of the next ...

An engine is a network with its optimiser. `PlainEngine` is all that one device needs; the
orchestrator's shards it over workers. Nothing here waits for the device.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workloads.layers.transformer_blocks import Recompute, compile_blocks, recompute
from workloads.objectives.base import SPREAD, STUDENT, Objective
from workloads.objectives.batch import Batch
from workloads.settings.train import StepSettings, TrainSettings


class Engine(Protocol):
    """A network with its optimiser; callable like the network."""

    module: nn.Module

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What it trains, as exact as it is kept: by parameters' names, or this worker's part, flat."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def step(self, loss: Tensor) -> None:
        """Back-propagates the scalar `loss` and updates the network."""


class PlainEngine:
    """The engine of one device: AdamW, with clipped gradients."""

    def __init__(self, module: nn.Module, learning_rate: float, train: TrainSettings) -> None:
        self.module = module
        self.weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._trained = list(self.weights.values())
        self._clip = train.gradient_clip
        self.optimizer = make_optimizer(self._trained, learning_rate, train)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip:
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_optimizer(
    trained: list[nn.Parameter], learning_rate: float, train: TrainSettings
) -> torch.optim.AdamW:
    """AdamW as the settings say."""
    return torch.optim.AdamW(
        trained,
        lr=learning_rate,
        betas=train.adam_betas,
        weight_decay=train.weight_decay,
        fused=True,
    )


def apply_settings(student: Any, objective: Objective[Any], settings: StepSettings) -> None:
    """Makes the networks keep fewer activations, or compiles them, as the settings say.

    `student` is a diffusers model.
    """
    for network, again in each_network(student, objective):
        if settings.compile:
            compile_blocks(network, keep=not settings.activation_checkpointing)
        elif settings.activation_checkpointing:
            network.enable_gradient_checkpointing(again)


def each_network(student: Any, objective: Objective[Any]) -> list[tuple[Any, Recompute]]:
    """Student and teacher, each with what calls a module of it that shall keep no activations."""
    return [(student, recompute), (objective.backbone.network, objective.recompute)]


def make_engines(student: nn.Module, objective: Objective[Any], train: TrainSettings) -> dict[str, Engine]:
    """For one device: an engine for the student, and one for each auxiliary network."""
    auxiliary = {
        name: PlainEngine(each.module, each.learning_rate, train)
        for name, each in objective.auxiliary.items()
    }
    return {STUDENT: PlainEngine(student, train.learning_rate, train), **auxiliary}


def train_step(
    objective: Objective[Any], engines: Mapping[str, Engine], batch: Batch, draws: Any, step: int = 1
) -> Tensor:
    """Step number `step` (from 1): every update of it; its `metric_names` (L,) float32.

    `engines`: around the student and each of the objective's auxiliary networks, by name.
    """
    told: dict[str, Tensor] = {}
    for update in objective.updates(engines, batch, draws, step):
        engines[update.network].step(update.loss)
        told |= {f"{update.network}_loss": update.loss.detach(), **update.metrics}
        if update.latents is not None:
            told[SPREAD] = update.latents.detach().std(dim=0, correction=0).mean()
    return torch.stack([told[name] for name in objective.metric_names]).float()
