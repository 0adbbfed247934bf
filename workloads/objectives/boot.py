"""BOOT: data-free distillation by bootstrapping along the teacher's trajectory (Gu et al. 2023,
arXiv 2306.05544). It has no fake score.

Let x_t = alpha_t y_t + sigma_t z be a DDIM trajectory that starts at the noise z; y_t is its signal.
With the teacher's prediction f(x_t, t) of x_0, the paper's Signal-ODE is dy/dt = -lambda'_t (f - y_t)
with lambda = log(sigma / alpha). One DDIM step from t to s < t solves it exactly for a constant f:

    y_s = (1 - r) f(x_t, t) + r y_t,    r = exp(lambda_s - lambda_t)

The noise z cancels and enters through x_t alone. The student y(z, t) reads the pure noise z at every t
and learns the whole trajectory; the target at s is a teacher step from its own prediction at
t = s + delta, where delta is a share of the schedule (so that the residual over delta is a velocity):

    L = mean w (y(z, s) - stopgrad((1 - r) f(x_t, t) + r y(z, t)))^2    bootstrap loss
      + beta mean (y(z, T) - f(z, T))^2                                 boundary loss

with w = 1 / delta^2, or w = 1 / (1 - r)^2 with which the residual is one of pictures (the latter as BOOT is
restated by OFTSR, arXiv 2412.09465). Near T the stride is shorter, and delta with it. x_t is
alpha_t y(z, t) + sigma_t z, and f is guided. A midpoint step has f(x_m, m) in the place of f(x_t, t), where
x_m is made of the signal after half a stride. For any prediction type f is x_0: (x_t - sigma_t e) / alpha_t
for an epsilon prediction e, alpha_t x_t - sigma_t v for a v prediction, x_t - sigma_t v in flow matching.

With `guidance_input` the student also reads the teacher's guidance scale.

The student's network sees t as a timestep of its own (`network_timestep`): the start timestep at the
trajectory's end, where the student is then the usual one-step generator, and `clock_from` at its beginning.
The network's output is converted to x_0 as at the timestep that it sees, but not below the start timestep,
where x_0 would be the noise.

Shapes: B batch, C latent channels, H latent height and width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning, concatenate
from workloads.objectives.base import SPREAD, STUDENT, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.classifier_free_guidance import draw_guidance, guide
from workloads.settings.objectives.boot import BootSettings


@dataclass(frozen=True)
class BootDraws:
    """Random numbers of one step, for the global batch or for one worker's rows of it."""

    noise: Tensor
    """Start of the trajectory z, (B, C, H, H)."""
    timestep: Tensor
    """Timestep s at which the student is trained, (B,)."""
    scale: Tensor
    """Guidance scale of the teacher, (B,)."""

    def __getitem__(self, rows: slice) -> "BootDraws":
        return BootDraws(self.noise[rows], self.timestep[rows], self.scale[rows])


class BOOT(Objective[BootDraws]):
    """BOOT for one backbone; see the module's docstring."""

    metric_names = ("student_loss", "bootstrap_loss", "boundary_loss", SPREAD)

    def __init__(self, backbone: Backbone, null: Conditioning, settings: BootSettings) -> None:
        """Convert shares of the schedule to timesteps.

        Args:
            null: conditioning of the empty prompt (B = 1).
        """
        super().__init__(backbone)
        self.null, self.settings = null, settings
        timesteps = len(backbone.schedule)
        self.t_min, last = (round(share * timesteps) for share in settings.timestep_range)
        self.t_max = last - 1
        self.stride = max(1, round(settings.step_size * timesteps))

    def draw(self, batch: int, generator: torch.Generator) -> BootDraws:
        device, shape = generator.device, (batch, *self.backbone.latent_shape)
        noise = torch.randn(shape, generator=generator, device=device)
        timestep = torch.randint(self.t_min, self.t_max, (batch,), generator=generator, device=device)
        return BootDraws(noise, timestep, draw_guidance(self.settings, batch, generator))

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: BootDraws, step: int
    ) -> Iterator[Update]:
        student, prompts = networks[STUDENT], batch.prompts
        read = prompts.at_scale(draws.scale) if self.settings.guidance_input else prompts
        first = torch.full_like(draws.timestep, self.t_max)
        target = self.target(student, read, draws)
        boundary_target = self.teacher_latents(draws.noise, first, prompts, draws.scale)
        # Both points of the trajectory share one forward pass of the student.
        rows = len(draws.noise)
        signals = self.signal(
            student,
            draws.noise.repeat(2, 1, 1, 1),
            torch.cat([draws.timestep, first]),
            concatenate([read, read]),
        )
        error = (signals[:rows] - target).square().mean((1, 2, 3))
        bootstrap = (error * self.weight(draws.timestep)).mean()
        boundary = (signals[rows:] - boundary_target).square().mean()
        loss = bootstrap + self.settings.boundary_weight * boundary
        metrics = {"bootstrap_loss": bootstrap.detach(), "boundary_loss": boundary.detach()}
        yield Update(STUDENT, loss, metrics, signals[:rows])

    def network_timestep(self, timestep: Tensor) -> Tensor:
        """Map timesteps (B,) of the trajectory to those (B,) that the student's network sees."""
        remaining = (timestep - self.t_min) / (self.t_max - self.t_min)
        first, last = self.clock_from * self.t_max, self.backbone.start_timestep
        return (last + (first - last) * remaining).round().long()

    @property
    def clock_from(self) -> float:
        """Timestep that the network sees at the trajectory's beginning, as a fraction of the schedule."""
        if self.settings.clock_from is not None:
            return self.settings.clock_from
        return 0.0 if self.backbone.schedule.prediction == "epsilon" else 1.0

    def weight(self, timestep: Tensor) -> Tensor:
        """Return the weight (B,) of the bootstrap loss at timesteps s (B,), by the stride taken to s."""
        before = self.before(timestep)
        if self.settings.trajectory_weighting == "picture":
            return 1 / (1 - self.ratio(before, timestep).flatten()).square()
        stride = (before - timestep).to(self.backbone.schedule.alpha.dtype)
        return (len(self.backbone.schedule) / stride).square()

    def before(self, timestep: Tensor) -> Tensor:
        """Return the timesteps t (B,) from which the teacher steps to s (B,); the last stride is shorter."""
        return (timestep + self.stride).clamp(max=self.t_max)

    def ratio(self, first: Tensor, second: Tensor) -> Tensor:
        """Return r = exp(lambda_s - lambda_t) of a step from t = `first` to s = `second`, (B, 1, 1, 1)."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(self.backbone.schedule.alpha_sigma, (first, second))
        return (sigma_s * alpha_t) / (alpha_s * sigma_t)

    def signal(self, student: Network, noise: Tensor, timestep: Tensor, prompts: Conditioning) -> Tensor:
        """Return the signal y(z, t), (B, C, H, H), for noise z (B, C, H, H) and timesteps t (B,)."""
        shown = self.network_timestep(timestep)
        output = self.backbone.predict(student, noise, shown, prompts)
        at = shown.clamp(min=self.backbone.start_timestep)
        return self.backbone.schedule.to_latents(output, noise, at)

    @torch.no_grad()
    def target(self, student: Network, prompts: Conditioning, draws: BootDraws) -> Tensor:
        """Return the bootstrap target y_s (B, C, H, H): a teacher step from the student's own y_t."""
        start, end = self.before(draws.timestep), draws.timestep
        signal = self.signal(student, draws.noise, start, prompts)

        def teacher(signal: Tensor, timestep: Tensor) -> Tensor:
            noisy = self.backbone.schedule.add_noise(signal, draws.noise, timestep)
            return self.teacher_latents(noisy, timestep, prompts.unscaled(), draws.scale)

        latents = teacher(signal, start)
        if self.settings.solver == "midpoint":
            middle = (start + end) // 2
            latents = teacher(torch.lerp(latents, signal, self.ratio(start, middle)), middle)
        return torch.lerp(latents, signal, self.ratio(start, end))

    @torch.no_grad()
    def teacher_latents(
        self, noisy: Tensor, timestep: Tensor, prompts: Conditioning, scale: Tensor
    ) -> Tensor:
        """Return f(x_t, t), the teacher's guided prediction of x_0, (B, C, H, H).

        Args:
            noisy: x_t, (B, C, H, H).
            timestep: t, (B,).
            prompts: conditioning of B prompts.
            scale: guidance scales, (B,).
        """
        backbone, null = self.backbone, self.null.expand(len(noisy))
        conditional, unconditional = (
            backbone.predict(backbone.network, noisy, timestep, text) for text in (prompts, null)
        )
        token_size = backbone.token_size if self.settings.norm_rescaled_guidance else None
        output = guide(unconditional, conditional, scale, token_size)
        return backbone.schedule.to_latents(output, noisy, timestep)
