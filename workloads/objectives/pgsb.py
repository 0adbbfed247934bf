"""PG-SB: variational score distillation with a random guidance scale (SNOOPI, arXiv 2412.02687).

The student f maps noise z and a prompt y to latents x_0 = f(z, y). Its gradient is

    w(t) (e_teacher(x_t, t, y, k) - e_fake(x_t, t, y, k)) df/dtheta,    k ~ U(low, high)

(SNOOPI v3, eq. 6, with the random scale of v1), where x_t = alpha_t x_0 + sigma_t e. Both scores are
guided at the same scale k. The fake score is trained at the same time to denoise the student's own
samples (the LoRA teacher of SwiftBrush v2, arXiv 2408.14176). low = high is SwiftBrush (arXiv 2312.05239).

With `weighting: dmd` the gradient is DMD's (arXiv 2311.18828; normalised as in DMD2's code): the
difference of the two predictions of x_0, (x_fake - x_teacher) / mean |x_0 - x_teacher|, where the mean is
over one sample.

A student of N steps (`Backbone.rungs`) has one of them trained in each step of the training, in turn: the
same in all rows and workers. Its input is what the student itself draws up to there, without gradient; the
x_0 that it predicts takes the place of f(z, y) above (DMD2, arXiv 2405.14867, sec. 4.5).

With `guidance_input` the student f(z, y, k) reads the scale that its teacher is guided at, and so does the
fake score, which is trained on its samples. Each k is then a distillation of its own, whose fixed point is
the teacher guided at k. Where both scores are guided, the unguided teacher's distribution solves every k, and
the student may ignore its input. Where the fake score does not read k, it is that of the mixture over k, so
that students that are right at each k are no fixed point.

With negative prompts y- (NASA-T; SNOOPI v3, sec. 5.3) the student generates under NASA at a strength
alpha ~ U(0, 1), the teacher is guided against y- instead of the empty prompt, and the fake score does
not use negative prompts.

Shapes: B batch, C latent channels, H latent height and width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from workloads.attention import nasa_guidance
from workloads.backbones.backbone import Backbone
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning, concatenate
from workloads.layers.adapted_layer import BASE, Role, RowRoles
from workloads.layers.lora import AdapterSet
from workloads.objectives.base import SPREAD, STUDENT, Auxiliary, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.classifier_free_guidance import (
    draw_guidance,
    draw_scale,
    draw_timesteps,
    guide,
)
from workloads.objectives.pgsb_draws import FakeScoreDraws, PGSBDraws
from workloads.objectives.score_weight import score_weight
from workloads.settings.objectives.guided import Distribution
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import ScoreBatch
from workloads.students.unroll import unroll

FAKE_SCORE = "fake_score"
NOTHING: AbstractContextManager[None] = nullcontext()
Branch = tuple[int, Conditioning]
"""One prediction: its role in the teacher's network, and its B prompts."""


@dataclass(frozen=True)
class StudentLoss:
    """The student's loss, with the values that the rest of the step needs."""

    loss: Tensor
    """Scalar, to back-propagate."""
    latents: Tensor
    """The student's latents x_0, (B, C, H, H), with gradient; detached, the fake score's training data."""
    score_gap: Tensor
    """Root mean square of e_teacher - e_fake, a scalar; it measures progress, which the loss does not."""
    from_noise: Tensor | None = None
    """x_0 that the student predicts from pure noise, (B, C, H, H), if another step of it is trained."""


class PGSB(Objective[PGSBDraws]):
    """PG-SB for one backbone; see the module's docstring."""

    metric_names = ("student_loss", "fake_score_loss", "score_gap", SPREAD)

    def __init__(
        self,
        backbone: Backbone,
        null: Conditioning,
        settings: PGSBSettings,
        score_batch: ScoreBatch = "prediction",
    ) -> None:
        """Insert the fake score's adapters into the backbone's network.

        Args:
            null: conditioning of the empty prompt (B = 1).
            score_batch: score predictions per forward pass; see `StepSettings`.
        """
        super().__init__(backbone)
        self.score_batch = score_batch
        self.null = null
        self.settings = settings
        neutral = settings.neutral_scale if settings.guidance_input is True else None
        self.fake_score = AdapterSet(backbone.network, settings.lora, neutral)
        self.auxiliary = {FAKE_SCORE: Auxiliary(self.fake_score, settings.fake_score_learning_rate)}

    @property
    def fake_score_timesteps(self) -> Distribution:
        """Distribution of the timesteps that the fake score trains on."""
        default: Distribution = "logit_normal" if self.backbone.schedule.is_flow else "uniform"
        return self.settings.fake_score_timesteps or default

    def draw(self, batch: int, generator: torch.Generator) -> PGSBDraws:
        shape = (batch, *self.backbone.latent_shape)
        device, settings = generator.device, self.settings
        steps = len(self.backbone.schedule)
        first, last = (round(share * steps) for share in settings.timestep_range)

        def noise() -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        def timestep(distribution: Distribution, low: int, high: int) -> Tensor:
            return draw_timesteps(distribution, low, high, batch, generator)

        def fake_score() -> FakeScoreDraws:
            drop_prompt = torch.rand(batch, generator=generator, device=device) < settings.null_rate
            return FakeScoreDraws(timestep(self.fake_score_timesteps, 0, steps), noise(), drop_prompt)

        per_sample = settings.guidance_per == "sample"
        start_noise, at, added = noise(), timestep(settings.timesteps, first, last), noise()
        scale = draw_guidance(settings, batch, generator)
        strength = self._draw_strength(generator)
        updates = tuple(fake_score() for _ in range(settings.fake_score_updates))
        interval = settings.fake_score_interval
        fake_score_scale = scale if interval is None else draw_scale(interval, batch, per_sample, generator)
        # Drawn last, so that a student of one step has the numbers that it had before there were others.
        later = (batch, self.backbone.student_steps - 1, *self.backbone.latent_shape)
        renoise = torch.randn(later, generator=generator, device=device)
        return PGSBDraws(start_noise, at, added, scale, strength, updates, fake_score_scale, renoise)

    def _draw_strength(self, generator: torch.Generator) -> Tensor:
        if self.settings.nasa_interval is None:
            return torch.zeros((), device=generator.device)
        return draw_scale(self.settings.nasa_interval, 1, False, generator)[0]

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: PGSBDraws, step: int
    ) -> Iterator[Update]:
        student = networks[STUDENT]
        guidance = nasa_guidance(student, batch.negatives, draws.strength)
        rung = (step - 1) % self.backbone.student_steps
        result = self.student_loss(student, batch.prompts, draws, batch.negatives, guidance, rung)
        metrics = {"score_gap": result.score_gap}
        with guidance:  # the caller back-propagates, where checkpointed activations are recomputed
            yield Update(STUDENT, result.loss, metrics, result.latents, result.from_noise)
        latents = result.latents.detach()
        for fake_score_draws in draws.fake_score:
            prompts = self._for_fake_score(batch.prompts, draws.scale)
            loss = self.fake_score_loss(networks[FAKE_SCORE], latents, prompts, fake_score_draws)
            yield Update(FAKE_SCORE, loss)

    def student_loss(
        self,
        student: Network,
        prompts: Conditioning,
        draws: PGSBDraws,
        negatives: Conditioning | None = None,
        guidance: AbstractContextManager[Any] = NOTHING,
        rung: int = 0,
    ) -> StudentLoss:
        """Return a loss whose gradient is PG-SB's, by the stop-gradient trick of SwiftBrush's code.

        With g = w (e_teacher - e_fake), L = 1/2 mean((x_0 - stopgrad(x_0 - g))^2) has
        dL/dx_0 = g / N over its N elements. No gradient passes through the two scores.

        Args:
            student: the student, or an engine around it.
            prompts: conditioning of B prompts.
            draws: B rows.
            negatives: conditioning of B negative prompts, for NASA-T.
            guidance: guidance of the student's attention, for NASA-T; it must be on again when the loss is
                back-propagated.
            rung: the student's step, from 0, that is trained; those before it draw its input.
        """
        start, renoise = draws.start_noise, draws.renoise
        read = prompts.at_scale(draws.scale) if self.settings.guidance_input else prompts
        with guidance:
            given, before = unroll(self.backbone, student, start, renoise, read, rung)
            latents = self.backbone.one_step(student, given, read, rung)
        frozen = latents.detach()
        noisy = self.backbone.schedule.add_noise(frozen, draws.noise, draws.timestep)
        scales = (draws.scale, draws.fake_score_scale)
        teacher, fake = self.scores(noisy, prompts, draws.timestep, scales, negatives)
        weight = score_weight(
            self.settings.weighting, self.backbone.schedule, draws.timestep, frozen, noisy, teacher
        )
        gradient = torch.nan_to_num(weight * (teacher - fake))
        loss = 0.5 * (latents - (frozen - gradient)).square().mean()
        gap = (teacher - fake).square().mean().sqrt()
        return StudentLoss(loss, latents, gap, before[0] if before else None)

    def fake_score_loss(
        self, fake_score: Network, latents: Tensor, prompts: Conditioning, draws: FakeScoreDraws
    ) -> Tensor:
        """Return the scalar denoising loss of the fake score.

        It is mean alpha_bar_t (e_fake(x_t, t, y) - e)^2, as in SwiftBrush's code, or in flow matching
        mean (v_fake(x_t, t, y) - (e - x_0))^2.

        Args:
            fake_score: the fake score, or an engine around it.
            latents: the student's latents x_0, detached, (B, C, H, H).
            prompts: conditioning of B prompts, with guidance scales if the fake score reads them.
            draws: B rows.
        """
        schedule = self.backbone.schedule
        noisy = schedule.add_noise(latents, draws.noise, draws.timestep)
        prompts = prompts.replace(draws.drop_prompt, self.null)
        output = self.backbone.predict(fake_score, noisy, draws.timestep, prompts)
        error = schedule.denoising_error(output, noisy, latents, draws.noise, draws.timestep)
        return error.square().mean()

    @torch.no_grad()
    def scores(
        self,
        noisy: Tensor,
        prompts: Conditioning,
        timestep: Tensor,
        scales: tuple[Tensor, Tensor],
        negatives: Conditioning | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the guided epsilons of the teacher and of the fake score at x_t, (B, C, H, H) each.

        They take up to four predictions of one network, in as many forward passes as `score_batch` sets.

        Args:
            noisy: x_t, (B, C, H, H).
            prompts: conditioning of B prompts.
            timestep: t, (B,).
            scales: guidance scales of the teacher and of the fake score, (B,) each.
            negatives: conditioning of B negative prompts, against which the teacher alone is guided.
        """
        guided, null = self.settings.guided, self.null.expand(len(noisy))
        teacher = [prompts, null if negatives is None else negatives][: 1 + (guided != "fake_score")]
        fake = [prompts, null][: 1 + (guided != "teacher")]
        branches = [(BASE, text) for text in teacher] + [(self.fake_score.role, text) for text in fake]
        branches = [(role, self._for_fake_score(text, scales[0])) for role, text in branches]
        outputs: list[Tensor] = []
        for group in self._group_branches(branches):
            outputs += self._predict(noisy, timestep, group)
        guided_outputs = (
            self._guided(outputs[: len(teacher)], scales[0]),
            self._guided(outputs[len(teacher) :], scales[1]),
        )
        real, generated = (
            self.backbone.schedule.to_epsilon(output, noisy, timestep) for output in guided_outputs
        )
        return real, generated

    def _for_fake_score(self, prompts: Conditioning, scale: Tensor) -> Conditioning:
        """Return the prompts at the scales (B,), if the fake score reads any; the teacher's calls do not."""
        return prompts.at_scale(scale) if self.settings.guidance_input is True else prompts

    def _guided(self, outputs: Sequence[Tensor], scale: Tensor) -> Tensor:
        """Guide a conditional output against the unconditional or negative one that follows it, if any.

        Args:
            outputs: one or two raw outputs (B, C, H, H).
            scale: guidance scales, (B,).
        """
        conditional, *against = outputs
        token_size = self.backbone.token_size if self.settings.norm_rescaled_guidance else None
        return guide(against[0], conditional, scale, token_size) if against else conditional

    def _group_branches(self, branches: list[Branch]) -> list[list[Branch]]:
        """Group predictions that share a forward pass."""
        if self.score_batch == "all":
            return [branches]
        if self.score_batch == "prediction":
            return [[branch] for branch in branches]
        return [[b for b in branches if b[0] == role] for role in (BASE, self.fake_score.role)]

    def _predict(self, noisy: Tensor, timestep: Tensor, branches: list[Branch]) -> Sequence[Tensor]:
        """Return the raw output (B, C, H, H) of each branch from one forward pass."""
        count, roles = len(branches), [role for role, _ in branches]
        role: Role = roles[0]
        if len(set(roles)) > 1:
            # Filled on the device, because a copy from the host would make the host wait.
            rows = [torch.full((len(noisy),), each, device=noisy.device) for each in roles]
            role = RowRoles(torch.cat(rows), tuple(set(roles) - {BASE}))
        output = self.backbone.predict(
            partial(self.fake_score.call_in_role, role),
            noisy.repeat(count, 1, 1, 1),
            timestep.repeat(count),
            concatenate([text for _, text in branches]),
        )
        return output.chunk(count)
