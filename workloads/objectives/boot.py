"""BOOT: bootstrapping along the teacher's trajectory, without data and without a fake score
(Gu et al. 2023, arXiv 2306.05544).

Let x_t = alpha_t y_t + sigma_t z be a DDIM trajectory that begins at the noise z; y_t is its signal.
With the teacher's picture f(x_t, t), one DDIM step from t to s < t is in signals (the paper's
Signal-ODE, dy/dt = -lambda'_t (f - y_t), solved exactly for a constant f; lambda = log(sigma / alpha))

    y_s = (1 - r) f(x_t, t) + r y_t,    r = exp(lambda_s - lambda_t)

in which z has cancelled: z goes into x_t alone. The student y(z, t) reads the pure noise at every t
and learns the whole trajectory, each point from its own prediction of the one before, t = s + delta
(delta a share of the schedule, so that the residual is one of a velocity):

    L = 1 / delta^2 mean (y(z, s) - stopgrad((1 - r) f(x_t, t) + r y(z, t)))^2    bootstrap loss
      + beta mean (y(z, T) - f(z, T))^2                                           boundary loss

with x_t = alpha_t y(z, t) + sigma_t z, and f guided. f is x_0 whatever the network predicts:
(x_t - sigma_t e) / alpha_t of epsilon, alpha_t x_t - sigma_t v of v.

The student tells its t by its clock, the timestep that its network sees: the start timestep at the
trajectory's end, so that the end is the one-step picture of every other student, and 0 at its
beginning. What the network puts out is read as at the start timestep, whatever its clock says: the
conversion of epsilon at t near T would amplify errors by 1 / alpha_t.

Shapes: B batch, C latent channels, H latent size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone, Network
from workloads.backbones.conditioning import Conditioning, concatenate
from workloads.objectives.base import SPREAD, STUDENT, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.classifier_free_guidance import draw_scale, guide
from workloads.settings.train import TrainSettings


@dataclass(frozen=True)
class BootDraws:
    """The random numbers of one step, of a whole global batch or of a worker's rows of it."""

    noise: Tensor
    """(B, C, H, H), z."""
    timestep: Tensor
    """(B,), s, at which the student is trained."""
    scale: Tensor
    """(B,), guidance scale of the teacher."""

    def __getitem__(self, rows: slice) -> "BootDraws":
        return BootDraws(self.noise[rows], self.timestep[rows], self.scale[rows])


class BOOT(Objective[BootDraws]):
    """The objective for one backbone; see the module's docstring."""

    losses = ("student_loss", "bootstrap_loss", "boundary_loss", SPREAD)

    def __init__(self, backbone: Backbone, null: Conditioning, settings: TrainSettings) -> None:
        """`null` is the conditioning of the empty prompt (B = 1)."""
        super().__init__(backbone)
        self.null, self.settings = null, settings
        timesteps = len(backbone.schedule.alpha_bar)
        self.end, last = (round(share * timesteps) for share in settings.timestep_range)
        self.beginning = last - 1
        self.stride = max(1, round(settings.boot.step_size * timesteps))

    def draw(self, batch: int, generator: torch.Generator) -> BootDraws:
        device, shape = generator.device, (batch, *self.backbone.latent_shape)
        noise = torch.randn(shape, generator=generator, device=device)
        timestep = torch.randint(self.end, self.beginning, (batch,), generator=generator, device=device)
        per_sample = self.settings.guidance_per == "sample"
        scale = draw_scale(self.settings.guidance_interval, batch, per_sample, generator)
        return BootDraws(noise, timestep, scale)

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: BootDraws, step: int
    ) -> Iterator[Update]:
        student, prompts = networks[STUDENT], batch.prompts
        first = torch.full_like(draws.timestep, self.beginning)
        target = self.target(student, prompts, draws)
        beginning = self.teacher(draws.noise, first, prompts, draws.scale)
        # One call for both points of the trajectory.
        rows = len(draws.noise)
        signals = self.signal(
            student,
            draws.noise.repeat(2, 1, 1, 1),
            torch.cat([draws.timestep, first]),
            concatenate([prompts, prompts]),
        )
        bootstrap = (signals[:rows] - target).square().mean() / self.settings.boot.step_size**2
        boundary = (signals[rows:] - beginning).square().mean()
        loss = bootstrap + self.settings.boot.boundary_weight * boundary
        told = {"bootstrap_loss": bootstrap.detach(), "boundary_loss": boundary.detach()}
        yield Update(STUDENT, loss, told, signals[:rows])

    def clock(self, timestep: Tensor) -> Tensor:
        """The timestep (B,) that the student's network sees at `timestep` (B,) of the trajectory."""
        to_go = (timestep - self.end) / (self.beginning - self.end)
        return (self.backbone.start_timestep * (1 - to_go)).round().long()

    def signal(self, student: Network, noise: Tensor, timestep: Tensor, prompts: Conditioning) -> Tensor:
        """y(z, t), (B, C, H, H), of `noise` (B, C, H, H) at `timestep` (B,)."""
        output = self.backbone.predict(student, noise, self.clock(timestep), prompts)
        start = torch.full_like(timestep, self.backbone.start_timestep)
        return self.backbone.schedule.to_latents(output, noise, start)

    @torch.no_grad()
    def target(self, student: Network, prompts: Conditioning, draws: BootDraws) -> Tensor:
        """y_s (B, C, H, H) by one step of the teacher from the student's own y_t."""
        schedule, noise = self.backbone.schedule, draws.noise
        timestep = (draws.timestep + self.stride).clamp(max=self.beginning)
        before = self.signal(student, noise, timestep, prompts)
        noisy = schedule.add_noise(before, noise, timestep)
        picture = self.teacher(noisy, timestep, prompts, draws.scale)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = map(schedule.alpha_sigma, (timestep, draws.timestep))
        return torch.lerp(picture, before, (sigma_s * alpha_t) / (alpha_s * sigma_t))

    @torch.no_grad()
    def teacher(self, noisy: Tensor, timestep: Tensor, prompts: Conditioning, scale: Tensor) -> Tensor:
        """f, the teacher's guided picture x_0 (B, C, H, H) at x_t = `noisy`, of B prompts and scales."""
        backbone, null = self.backbone, self.null.expand(len(noisy))
        conditional, unconditional = (
            backbone.schedule.to_latents(
                backbone.predict(backbone.network, noisy, timestep, text), noisy, timestep
            )
            for text in (prompts, null)
        )
        return guide(unconditional, conditional, scale)
