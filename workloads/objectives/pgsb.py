"""PG-SB: variational score distillation under a random guidance scale (SNOOPI, arXiv 2412.02687).

The student f maps noise z and a prompt y to latents x_0. It follows

    w(t) (e_teacher(x_t, t, y, k) - e_fake(x_t, t, y, k)) df/dtheta,    k ~ U(low, high)

(SNOOPI v3, eq. 6), where both scores are guided at the same k, while the fake score is trained to
denoise the student's own pictures (SwiftBrush v2, eq. 5). low = high is SwiftBrush.

With `weighting: dmd` the gradient is DMD's (arXiv 2311.18828; DMD2's code): the difference of the
two scores' pictures, (x_fake - x_teacher) / mean |x_0 - x_teacher|, the mean over one sample.

With negative prompts y- (NASA-T; SNOOPI v3, sec. 5.3) the student draws under NASA at a strength
alpha ~ U(0, 1), the teacher is guided against y- in place of the empty prompt, and the fake score
goes without.

Shapes: B batch, C latent channels, H latent size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workloads.attention import nasa_guidance
from workloads.backbones.backbone import Backbone, Network
from workloads.backbones.conditioning import Conditioning, concatenate
from workloads.layers.lora import FakeScore, Role
from workloads.objectives.base import SPREAD, STUDENT, Auxiliary, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.classifier_free_guidance import draw_scale, guide
from workloads.settings.train import ScoreBatch, TrainSettings

FAKE_SCORE = "fake_score"
Branch = tuple[bool, Conditioning]
"""One prediction: whether of the fake score, and for which prompts."""


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
    """(B,), guidance scale k, of the teacher and, unless it has its own, of the fake score."""
    strength: Tensor
    """(), of NASA in the student; 0 without negative prompts."""
    fake_score: tuple[FakeScoreDraws, ...]
    fake_scale: Tensor
    """(B,), guidance scale of the fake score."""

    def __getitem__(self, rows: slice) -> "Draws":
        fake_score = tuple(update[rows] for update in self.fake_score)
        per_row = (self.start[rows], self.timestep[rows], self.noise[rows], self.scale[rows])
        return Draws(*per_row, self.strength, fake_score, self.fake_scale[rows])


@dataclass(frozen=True)
class StudentLoss:
    """What the student's half of a step yields."""

    loss: Tensor
    """Scalar, to back-propagate."""
    latents: Tensor
    """(B, C, H, H), the student's pictures, with gradient; without, the fake score's training data."""
    score_gap: Tensor
    """Scalar: root mean square of e_teacher - e_fake, which tells progress as the loss cannot."""


class PGSB(Objective[Draws]):
    """The objective for one backbone; see the module's docstring."""

    losses = ("student_loss", "fake_score_loss", "score_gap", SPREAD)

    def __init__(
        self,
        backbone: Backbone,
        null: Conditioning,
        settings: TrainSettings,
        score_batch: ScoreBatch = "prediction",
    ) -> None:
        """Puts the fake score's adapters into the backbone's network.

        `null` is the conditioning of the empty prompt (B = 1); `score_batch`: see `StepSettings`.
        """
        super().__init__(backbone)
        self.score_batch = score_batch
        self.null = null
        self.settings = settings
        self.fake_score = FakeScore(backbone.network, settings.lora)
        self.auxiliary = {FAKE_SCORE: Auxiliary(self.fake_score, settings.fake_score_learning_rate)}

    def recompute(self, module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.fake_score.recompute(module, *args, **kwargs)

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
        start, at, added = noise(), timestep(first, last), noise()
        scale = draw_scale(settings.guidance_interval, batch, per_sample, generator)
        strength = self._draw_strength(generator)
        updates = tuple(fake_score() for _ in range(settings.fake_score_updates))
        own = settings.fake_score_interval
        fake_scale = scale if own is None else draw_scale(own, batch, per_sample, generator)
        return Draws(start, at, added, scale, strength, updates, fake_scale)

    def _draw_strength(self, generator: torch.Generator) -> Tensor:
        if self.settings.nasa_interval is None:
            return torch.zeros((), device=generator.device)
        return draw_scale(self.settings.nasa_interval, 1, False, generator)[0]

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: Draws, step: int
    ) -> Iterator[Update]:
        student = networks[STUDENT]
        # Until it is back-propagated: activations that are not kept are computed anew then.
        with nasa_guidance(student, batch.negatives, draws.strength):
            outcome = self.student_loss(student, batch.prompts, draws, batch.negatives)
            yield Update(STUDENT, outcome.loss, {"score_gap": outcome.score_gap}, outcome.latents)
        latents = outcome.latents.detach()
        for each in draws.fake_score:
            loss = self.fake_score_loss(networks[FAKE_SCORE], latents, batch.prompts, each)
            yield Update(FAKE_SCORE, loss)

    def student_loss(
        self,
        student: Network,
        prompts: Conditioning,
        draws: Draws,
        negatives: Conditioning | None = None,
    ) -> StudentLoss:
        """The loss whose gradient in the student is PG-SB's, by the stop-gradient trick.

        With g = w (e_teacher - e_fake), L = 1/2 mean((x_0 - stopgrad(x_0 - g))^2) has
        dL/dx_0 = g / N. No gradient passes through the two scores. `negatives`, of B prompts,
        make it NASA-T; the student must be within `nasa_guidance` until the loss is back-propagated.
        """
        latents = self.backbone.one_step(student, draws.start, prompts)
        frozen = latents.detach()
        noisy = self.backbone.schedule.add_noise(frozen, draws.noise, draws.timestep)
        scales = (draws.scale, draws.fake_scale)
        teacher, fake = self.scores(noisy, prompts, draws.timestep, scales, negatives)
        weight = self._weight(draws.timestep, frozen, noisy, teacher)
        gradient = torch.nan_to_num(weight * (teacher - fake))
        loss = 0.5 * (latents - (frozen - gradient)).square().mean()
        return StudentLoss(loss, latents, (teacher - fake).square().mean().sqrt())

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
        noisy: Tensor,
        prompts: Conditioning,
        timestep: Tensor,
        scales: tuple[Tensor, Tensor],
        negatives: Conditioning | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Guided epsilon (B, C, H, H) of the teacher and of the fake score at `noisy`, at a scale (B,) each.

        Up to four predictions of the one frozen network, of which `score_batch` says how many are
        one call. The teacher is guided against `negatives`, if there are any, the fake score never.
        """
        guided, null = self.settings.guided, self.null.expand(len(noisy))
        teacher = [prompts, null if negatives is None else negatives][: 1 + (guided != "fake_score")]
        fake = [prompts, null][: 1 + (guided != "teacher")]
        branches = [(False, text) for text in teacher] + [(True, text) for text in fake]
        epsilon: list[Tensor] = []
        for group in self._calls(branches):
            epsilon += self._predict(noisy, timestep, group)
        return _guided(epsilon[: len(teacher)], scales[0]), _guided(epsilon[len(teacher) :], scales[1])

    def _calls(self, branches: list[Branch]) -> list[list[Branch]]:
        """Which predictions are one call of the network."""
        if self.score_batch == "all":
            return [branches]
        if self.score_batch == "prediction":
            return [[branch] for branch in branches]
        return [[b for b in branches if b[0] is role] for role in (False, True)]

    def _predict(self, noisy: Tensor, timestep: Tensor, branches: list[Branch]) -> Sequence[Tensor]:
        """Epsilon (B, C, H, H) of each branch, in one call."""
        count, fakes = len(branches), sum(role for role, _ in branches)
        role: Role = fakes == count
        if 0 < fakes < count:
            # The fake score's rows come last.
            row = torch.arange(count * len(noisy), device=noisy.device)
            role = row >= (count - fakes) * len(noisy)
        epsilon = self.backbone.epsilon(
            partial(self.fake_score.call_in_role, role),
            noisy.repeat(count, 1, 1, 1),
            timestep.repeat(count),
            concatenate([text for _, text in branches]),
        )
        return epsilon.chunk(count)

    def _weight(self, timestep: Tensor, latents: Tensor, noisy: Tensor, teacher: Tensor) -> Tensor:
        """w (B, 1, 1, 1); `teacher` is the epsilon at `noisy`, the noisy `latents`; all (B, C, H, H)."""
        if self.settings.weighting == "uniform":
            return torch.ones_like(timestep, dtype=torch.float32).view(-1, 1, 1, 1)
        alpha, sigma = self.backbone.schedule.alpha_sigma(timestep)
        if self.settings.weighting == "sigma_squared":
            return sigma.square()
        # sigma / alpha makes a difference of pictures of one of noise (x_0 = (x_t - sigma e) / alpha).
        picture = (noisy - sigma * teacher) / alpha
        return sigma / alpha / (latents - picture).abs().mean((1, 2, 3), keepdim=True)


def _guided(predictions: Sequence[Tensor], scale: Tensor) -> Tensor:
    """Of one role: a conditional prediction, and what it is guided against, if it is."""
    conditional, *against = predictions
    return guide(against[0], conditional, scale) if against else conditional
