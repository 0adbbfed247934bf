"""The adversarial term of Diffusion2GAN (Kang et al. 2024, arXiv 2405.05967, sec. 3.3).

With the discriminator's logits D, teacher pairs (z, y, x) and the student's latents f = f(z, y):

    student          mean softplus(-D(f, z, y))                                    (non-saturating)
    discriminator    mean softplus(-D(x, z, y)) + mean softplus(D(f', z, y))
    now and then     gamma / 2 |grad_x D(x, z, y)|^2 on one sample                 (R1, Mescheder et al. 2018)

f' is f, or for a share of the samples the teacher's latents of another pair (mix-and-match), so that D must
read noise and prompt. The other pair is the next one in the worker's rows, so results depend on the number of
workers by more than rounding.

Shapes: B batch, C latent channels, H latent size, L logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import concatenate
from workloads.objectives.base import Auxiliary, Update
from workloads.objectives.columns import TEACHER_LATENTS
from workloads.objectives.discriminator import Discriminator
from workloads.objectives.pairs import NOISE
from workloads.objectives.terms import Term, TermInputs
from workloads.settings.objectives.terms import AdversarialSettings

DISCRIMINATOR = "discriminator"
BETAS = (0.0, 0.99)
"""AdamW's coefficients for the discriminator, usual for adversarial losses."""


@dataclass(frozen=True)
class AdversarialDraws:
    """Random numbers of one step."""

    mixed: Tensor
    """Samples whose picture is another one's, bool (B,)."""

    def __getitem__(self, rows: slice) -> "AdversarialDraws":
        return AdversarialDraws(self.mixed[rows])


class Adversarial(Term[AdversarialDraws]):
    """The adversarial loss of the student, and the updates of its discriminator."""

    name = "adversarial_loss"

    def __init__(self, backbone: Backbone, settings: AdversarialSettings) -> None:
        """Copy the teacher's network, which must not have adapters yet.

        Raises:
            ValueError: The family's blocks cannot be read.
        """
        super().__init__()
        self.settings, self._shape = settings, backbone.latent_shape
        module = Discriminator(backbone, settings.reads_noise)
        self.auxiliary = {DISCRIMINATOR: Auxiliary(module, settings.learning_rate, BETAS, module.network)}

    def draw(self, batch: int, generator: torch.Generator) -> AdversarialDraws:
        uniform = torch.rand(batch, generator=generator, device=generator.device)
        return AdversarialDraws(uniform < self.settings.mix_rate)

    def weight(self, step: int) -> float:
        return self.settings.weight

    def loss(self, latents: Tensor, inputs: TermInputs[AdversarialDraws]) -> Tensor:
        noise, batch = self._latents(inputs, NOISE), inputs.batch
        logits = inputs.networks[DISCRIMINATOR](latents, noise, batch.prompts)
        return F.softplus(-logits).mean()

    def updates(self, latents: Tensor, inputs: TermInputs[AdversarialDraws]) -> Iterator[Update]:
        if self.settings.gradient_penalty and not (inputs.step - 1) % self.settings.penalty_every:
            yield Update(DISCRIMINATOR, self._penalty(inputs))
        real, noise, batch = (
            self._latents(inputs, TEACHER_LATENTS),
            self._latents(inputs, NOISE),
            inputs.batch,
        )
        false = torch.where(inputs.draws.mixed.view(-1, 1, 1, 1), real.roll(1, 0), latents)
        if len(real) == 1:
            false = latents  # there is no other pair
        # One call, whose gradient is then of one graph.
        prompts = concatenate([batch.prompts, batch.prompts])
        logits = inputs.networks[DISCRIMINATOR](torch.cat([real, false]), noise.repeat(2, 1, 1, 1), prompts)
        of_real, of_false = logits.chunk(2)
        yield Update(DISCRIMINATOR, F.softplus(-of_real).mean() + F.softplus(of_false).mean())

    def _penalty(self, inputs: TermInputs[AdversarialDraws]) -> Tensor:
        """Return gamma / 2 |grad D|^2 at the first real sample, times the interval, as it is rarely added."""
        real = self._latents(inputs, TEACHER_LATENTS)[:1].detach().requires_grad_()
        noise, prompts = self._latents(inputs, NOISE)[:1], inputs.batch.prompts[:1]
        module: Discriminator = self.auxiliary[DISCRIMINATOR].module  # type: ignore[assignment]
        # Fused attention has no second derivative, and blocks that are recomputed later would use it.
        with sdpa_kernel(SDPBackend.MATH), module.keeping_activations():
            logits = inputs.networks[DISCRIMINATOR](real, noise, prompts)
            (gradient,) = torch.autograd.grad(logits.mean(1).sum(), real, create_graph=True)
        factor = self.settings.gradient_penalty / 2 * self.settings.penalty_every
        return factor * gradient.square().sum()

    def _latents(self, inputs: TermInputs[AdversarialDraws], name: str) -> Tensor:
        return inputs.batch.columns[name].view(-1, *self._shape)
