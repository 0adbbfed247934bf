"""PG-SB: variational score distillation under a random guidance scale (SNOOPI, arXiv 2412.02687).

The student f maps noise z and a prompt y to latents x_0. It follows

    w(t) (e_teacher(x_t, t, y, k) - e_fake(x_t, t, y, k)) df/dtheta,    k ~ U(low, high)

(SNOOPI v3, eq. 6), where both scores are guided at the same k, while the fake score is trained to
denoise the student's own pictures (SwiftBrush v2, eq. 5). low = high is SwiftBrush.

With negative prompts y- (NASA-T; SNOOPI v3, sec. 5.3) the student draws under NASA at a strength
alpha ~ U(0, 1), the teacher is guided against y- in place of the empty prompt, and the fake score
goes without.

Shapes: B batch, C latent channels, H latent size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.attention import nasa
from workloads.backbone import Backbone, Network
from workloads.conditioning import Conditioning, concatenate
from workloads.guidance import draw_scale, guide
from workloads.lora import FakeScore
from workloads.settings import PGSBSettings


@dataclass(frozen=True)
class FakeScoreDraws:
    """The random numbers of one update of the fake score."""

    timestep: Tensor
    """(B,)."""
    noise: Tensor
    """(B, C, H, H)."""
    null: Tensor
    """(B,) bool: samples that lose their prompt."""

    def __getitem__(self, rows: slice) -> "FakeScoreDraws":
        return FakeScoreDraws(self.timestep[rows], self.noise[rows], self.null[rows])


@dataclass(frozen=True)
class Draws:
    """The random numbers of one step, of a whole global batch or of a worker's rows of it."""

    start: Tensor
    """(B, C, H, H), the student's input z."""
    timestep: Tensor
    """(B,), at which teacher and fake score are compared."""
    noise: Tensor
    """(B, C, H, H), that takes the student's picture to that timestep."""
    scale: Tensor
    """(B,), guidance scale k."""
    strength: Tensor
    """(), of NASA in the student; 0 without negative prompts."""
    fake_score: tuple[FakeScoreDraws, ...]

    def __getitem__(self, rows: slice) -> "Draws":
        fake_score = tuple(update[rows] for update in self.fake_score)
        per_row = (self.start[rows], self.timestep[rows], self.noise[rows], self.scale[rows])
        return Draws(*per_row, self.strength, fake_score)


@dataclass(frozen=True)
class StudentLoss:
    """What the student's half of a step yields."""

    loss: Tensor
    """Scalar, to back-propagate."""
    latents: Tensor
    """(B, C, H, H), the student's pictures, detached: the fake score's training data."""
    score_gap: Tensor
    """Scalar: root mean square of e_teacher - e_fake, which tells progress as the loss cannot."""


class PGSB:
    """The objective for one backbone; see the module's docstring."""

    def __init__(self, backbone: Backbone, null: Conditioning, settings: PGSBSettings) -> None:
        """`null` is the conditioning of the empty prompt (B = 1)."""
        self.backbone = backbone
        self.null = null
        self.settings = settings

    def draw(self, batch: int, generator: torch.Generator) -> Draws:
        """Every random number of a step for a global batch of `batch` samples."""
        shape = (batch, *self.backbone.latent_shape)
        device, settings = generator.device, self.settings
        steps = len(self.backbone.schedule.alpha_bar)
        first, last = (round(share * steps) for share in settings.timestep_range)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        def timestep(low: int, high: int) -> Tensor:
            return torch.randint(low, high, (batch,), generator=generator, device=device)

        def fake_score() -> FakeScoreDraws:
            null = torch.rand(batch, generator=generator, device=device) < settings.null_rate
            return FakeScoreDraws(timestep(0, steps), noise(), null)

        per_sample = settings.guidance_per == "sample"
        return Draws(
            start=noise(),
            timestep=timestep(first, last),
            noise=noise(),
            scale=draw_scale(settings.guidance_interval, batch, per_sample, generator),
            strength=self._draw_strength(generator),
            fake_score=tuple(fake_score() for _ in range(settings.fake_score_updates)),
        )

    def _draw_strength(self, generator: torch.Generator) -> Tensor:
        if self.settings.nasa_interval is None:
            return torch.zeros((), device=generator.device)
        return draw_scale(self.settings.nasa_interval, 1, False, generator)[0]

    def student_loss(
        self,
        student: Network,
        fake_score: FakeScore,
        prompts: Conditioning,
        draws: Draws,
        negatives: Conditioning | None = None,
    ) -> StudentLoss:
        """The loss whose gradient in the student is PG-SB's, by the stop-gradient trick.

        With g = w (e_teacher - e_fake), L = 1/2 mean((x_0 - stopgrad(x_0 - g))^2) has
        dL/dx_0 = g / N. No gradient passes through the two scores. `negatives`, of B prompts,
        make it NASA-T.
        """
        with nasa(student, negatives, draws.strength):
            latents = self.backbone.one_step(student, draws.start, prompts)
        frozen = latents.detach()
        noisy = self.backbone.schedule.add_noise(frozen, draws.noise, draws.timestep)
        teacher, fake = self.scores(fake_score, noisy, prompts, draws.timestep, draws.scale, negatives)
        gradient = torch.nan_to_num(self._weight(draws.timestep) * (teacher - fake))
        loss = 0.5 * (latents - (frozen - gradient)).square().mean()
        return StudentLoss(loss, frozen, (teacher - fake).square().mean().sqrt())

    def fake_score_loss(
        self, fake_score: Network, latents: Tensor, prompts: Conditioning, draws: FakeScoreDraws
    ) -> Tensor:
        """alpha_bar-weighted denoising of the student's `latents` (B, C, H, H); scalar.

        Prediction and target are both multiplied by alpha_t (SwiftBrush's code).
        """
        schedule = self.backbone.schedule
        noisy = schedule.add_noise(latents, draws.noise, draws.timestep)
        prompts = prompts.replace(draws.null, self.null)
        epsilon = self.backbone.epsilon(fake_score, noisy, draws.timestep, prompts)
        alpha, _ = schedule.alpha_sigma(draws.timestep)
        return (alpha * (epsilon - draws.noise)).square().mean()

    @torch.no_grad()
    def scores(
        self,
        fake_score: FakeScore,
        noisy: Tensor,
        prompts: Conditioning,
        timestep: Tensor,
        scale: Tensor,
        negatives: Conditioning | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Guided epsilon (B, C, H, H) of the teacher and of the fake score at `noisy`.

        The up to four predictions are one batch through the one frozen network. The teacher is
        guided against `negatives`, if there are any, the fake score never.
        """
        null = self.null.expand(len(noisy))
        against = {0.0: null if negatives is None else negatives, 1.0: null}
        guided = self.settings.guided
        roles: Sequence[tuple[float, bool]] = [(0.0, guided != "fake_score"), (1.0, guided != "teacher")]
        branches = [(role, c) for role, on in roles for c in ((prompts, against[role]) if on else (prompts,))]
        count = len(branches)
        mask = torch.tensor([role for role, _ in branches], device=noisy.device)

        def network(latents: Tensor, *args: object, **kwargs: object) -> object:
            return fake_score.mixed(mask.repeat_interleave(len(noisy)), latents, *args, **kwargs)

        conditioning = concatenate([c for _, c in branches])
        epsilon = self.backbone.epsilon(
            network, noisy.repeat(count, 1, 1, 1), timestep.repeat(count), conditioning
        )
        parts = iter(epsilon.chunk(count))
        teacher, fake = (
            guide(unconditional=next(parts), conditional=conditional, scale=scale) if on else conditional
            for (_, on) in roles
            for conditional in (next(parts),)
        )
        return teacher, fake

    def _weight(self, timestep: Tensor) -> Tensor:
        if self.settings.weighting == "uniform":
            return torch.ones_like(timestep, dtype=torch.float32).view(-1, 1, 1, 1)
        _, sigma = self.backbone.schedule.alpha_sigma(timestep)
        return sigma.square()
