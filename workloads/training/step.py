"""One training step on one worker: the updates of its objective, in order.

    objective -> loss of a network -> that network's engine -> objective -> loss of the next ...

An engine is a network with its optimizer. `PlainEngine` is the engine of a single device; the orchestrator's
engine shards optimizer state over workers. No function here synchronises with the device.

Shapes: B batch, L losses of the objective.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from workloads.layers.lora import network_of, recompute_in_role
from workloads.layers.transformer_blocks import Recompute, compile_blocks, recompute
from workloads.objectives.base import SPREAD, STUDENT, Objective
from workloads.objectives.batch import Batch
from workloads.settings.train import StepSettings, TrainSettings


class Engine(Protocol):
    """A network with its optimizer; callable like the network."""

    module: nn.Module

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Trained weights in the highest precision kept: by parameter name, or this worker's flat shard."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def step(self, loss: Tensor) -> None:
        """Back-propagate the scalar `loss` and update the network."""


class PlainEngine:
    """Engine of a single device: AdamW with gradient clipping."""

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        train: TrainSettings,
        adam_betas: tuple[float, float] | None = None,
    ) -> None:
        """`adam_betas` replace those of `train`."""
        self.module = module
        self.weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._trained = list(self.weights.values())
        self._clip = train.gradient_clip
        self.optimizer = make_optimizer(self._trained, learning_rate, train, adam_betas)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        """Back-propagate the scalar `loss` and update the network."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._clip:
            nn.utils.clip_grad_norm_(self._trained, self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_optimizer(
    trained: list[nn.Parameter],
    learning_rate: float,
    train: TrainSettings,
    adam_betas: tuple[float, float] | None = None,
) -> torch.optim.AdamW:
    """Return AdamW with the settings of `train`, a learning rate of its own and, if given, its own betas."""
    return torch.optim.AdamW(
        trained,
        lr=learning_rate,
        betas=adam_betas or train.adam_betas,
        weight_decay=train.weight_decay,
        fused=True,
    )


def apply_settings(student: nn.Module, objective: Objective[Any], settings: StepSettings) -> None:
    """Turn on activation checkpointing or compilation, as `settings` ask.

    Student and teacher are compiled; auxiliary networks are not, but recompute their activations too.
    """
    for network, checkpoint in each_network(student, objective):
        if settings.compile:
            compile_blocks(network, keep=not settings.activation_checkpointing)
        elif settings.activation_checkpointing:
            network.enable_gradient_checkpointing(checkpoint)
    if settings.activation_checkpointing:
        recompute_auxiliary(objective)


def recompute_auxiliary(objective: Objective[Any]) -> None:
    """Turn on activation checkpointing in the auxiliary networks."""
    for auxiliary in objective.auxiliary.values():
        network: Any = auxiliary.network
        if network is not None:
            network.enable_gradient_checkpointing(recompute)


def each_network(student: nn.Module, objective: Objective[Any]) -> list[tuple[Any, Recompute]]:
    """Return the networks of student and teacher, each with the function that recomputes its blocks.

    An adapter student shares the teacher's network, which is then the only one.
    """
    networks = dict.fromkeys((network_of(student), objective.backbone.network))
    return [(network, recompute_in_role(network)) for network in networks]


def make_engines(student: nn.Module, objective: Objective[Any], train: TrainSettings) -> dict[str, Engine]:
    """Return single-device engines by name: the student's, and one for each auxiliary network."""
    auxiliary = {
        name: PlainEngine(each.module, each.learning_rate, train, each.adam_betas)
        for name, each in objective.auxiliary.items()
    }
    return {STUDENT: PlainEngine(student, train.learning_rate, train), **auxiliary}


def train_step(
    objective: Objective[Any], engines: Mapping[str, Engine], batch: Batch, draws: Any, step: int = 1
) -> Tensor:
    """Run every update of step number `step` (from 1) and return its metrics (L,) in float32.

    Their names are `objective.metric_names`.

    `engines` holds, by name, the student's engine and one for each auxiliary network of the objective.
    `batch` has this worker's B prompts, `draws` their rows of the global batch's random numbers.
    """
    metrics: dict[str, Tensor] = {}
    for update in objective.updates(engines, batch, draws, step):
        engines[update.network].step(update.loss)
        metrics |= {f"{update.network}_loss": update.loss.detach(), **update.metrics}
        if update.latents is not None:
            # The first step's x_0, whichever is trained: those of different steps vary by different amounts.
            first = update.latents if update.from_noise is None else update.from_noise
            metrics[SPREAD] = first.detach().std(dim=0, correction=0).mean()
    return torch.stack([metrics[name] for name in objective.metric_names]).float()
