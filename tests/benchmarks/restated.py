"""The published SwiftBrush loop, restated plainly from its description, as the benchmark's measure.

One network with PEFT adapters, switched off for the teacher and on for the fake score, beside the
student; four score predictions in four calls; losses read at every step (SwiftBrush, arXiv
2312.05239, and its code). Mathematics, weights and random numbers are those of `workloads`, whose
schedule and way of calling a network are all that is used of it. Shapes as there.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.pgsb_draws import PGSBDraws
from workloads.settings.objectives.pgsb import PGSBSettings

RESTATED = ("unet-epsilon", "unet-v", "pixart")
"""Miniatures that the published scripts, and so the restated loop, have the conversions for."""


class RestatedLoop:
    """The student, and the network with an adapter that is teacher and fake score by turns."""

    def __init__(self, backbone: Backbone, null: Conditioning, train: PGSBSettings) -> None:
        """Takes the backbone's network for its own."""
        self.backbone, self.null, self.train = backbone, null, train
        self.student: Any = copy.deepcopy(backbone.network).requires_grad_(True).train()
        self.fake_score = self._make_fake_score()
        adapters = [p for p in self.fake_score.parameters() if p.requires_grad]
        options: dict[str, Any] = {"betas": train.adam_betas, "weight_decay": train.weight_decay}
        self.student_optimizer = torch.optim.AdamW(
            self.student.parameters(), lr=train.learning_rate, **options
        )
        self.fake_optimizer = torch.optim.AdamW(adapters, lr=train.fake_score_learning_rate, **options)

    def _make_fake_score(self) -> Any:
        """The frozen network with a trainable adapter."""
        network: Any = self.backbone.network
        names = [n for n, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        wanted = self.train.lora.targets
        targets = [n for n in names if "all" in wanted or n.endswith(tuple(f".{t}" for t in wanted))]
        lora = self.train.lora
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
        # By default it would hold adapters in float32 beside bfloat16 weights.
        return get_peft_model(network, config, autocast_adapter_dtype=False)

    def step(self, prompts: Conditioning, draws: PGSBDraws) -> tuple[float, float]:
        """One update of each; both losses."""
        latents = self.draw_student(prompts, draws)
        gradient = self.gradient(latents.detach(), prompts, draws)
        student_loss = self.update_student(latents, gradient)
        return student_loss, self.update_fake_score(latents.detach(), prompts, draws)

    def draw_student(self, prompts: Conditioning, draws: PGSBDraws) -> Tensor:
        start = torch.full_like(draws.timestep, self.backbone.start_timestep)
        epsilon = self._epsilon(self.student, draws.start_noise, start, prompts)
        alpha, sigma = self.backbone.schedule.alpha_sigma(start)
        return (draws.start_noise - sigma * epsilon) / alpha

    @torch.no_grad()
    def gradient(self, latents: Tensor, prompts: Conditioning, draws: PGSBDraws) -> Tensor:
        """w(t) (e_teacher - e_fake), both guided, by four calls."""
        alpha, sigma = self.backbone.schedule.alpha_sigma(draws.timestep)
        noisy = alpha * latents + sigma * draws.noise
        null, scale = self.null.expand(len(noisy)), draws.scale.view(-1, 1, 1, 1)

        def guided(network: Any) -> Tensor:
            unconditional = self._epsilon(network, noisy, draws.timestep, null)
            conditional = self._epsilon(network, noisy, draws.timestep, prompts)
            return unconditional + scale * (conditional - unconditional)

        with self._teacher() as network:
            teacher = guided(network)
        return torch.nan_to_num(sigma**2 * (teacher - guided(self.fake_score)))

    @contextmanager
    def _teacher(self) -> Iterator[Any]:
        with self.fake_score.disable_adapter():
            yield self.fake_score

    def update_student(self, latents: Tensor, gradient: Tensor) -> float:
        target = (latents - gradient).detach()
        loss = 0.5 * F.mse_loss(latents.float(), target.float(), reduction="mean")
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.student.parameters(), self.train.gradient_clip)
        self.student_optimizer.step()
        self.student_optimizer.zero_grad()
        return loss.item()

    def update_fake_score(self, latents: Tensor, prompts: Conditioning, draws: PGSBDraws) -> float:
        (update,) = draws.fake_score
        alpha, sigma = self.backbone.schedule.alpha_sigma(update.timestep)
        noisy = alpha * latents + sigma * update.noise
        prompts = prompts.replace(update.drop_prompt, self.null)
        epsilon = self._epsilon(self.fake_score, noisy, update.timestep, prompts)
        loss = F.mse_loss((alpha * epsilon).float(), (alpha * update.noise).float())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.fake_score.parameters(), self.train.gradient_clip)
        self.fake_optimizer.step()
        self.fake_optimizer.zero_grad()
        return loss.item()

    def _epsilon(self, network: Any, noisy: Tensor, timestep: Tensor, prompts: Conditioning) -> Tensor:
        return self.backbone.epsilon(network, noisy, timestep, prompts)


class ThreeNetworks(RestatedLoop):
    """The same with a fake score that is a network of its own, all of it trained (as in DMD2)."""

    def _make_fake_score(self) -> Any:
        return copy.deepcopy(self.backbone.network).requires_grad_(True)

    @contextmanager
    def _teacher(self) -> Iterator[Any]:
        yield self.backbone.network
