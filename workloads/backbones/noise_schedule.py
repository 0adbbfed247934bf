"""Noise schedules: how much signal and noise is in x_t, and what a network's output says about x_0.

    x_t = alpha_t x_0 + sigma_t epsilon

Two kinds differ in their tables alone. Variance-preserving diffusion has alpha_t = sqrt(alpha_bar_t) and
sigma_t = sqrt(1 - alpha_bar_t) (Ho et al. 2020, arXiv 2006.11239, eq. 4). Flow matching has alpha_t = 1 - t
and sigma_t = t for t in (0, 1] (Esser et al. 2024, arXiv 2403.03206, eq. 13), and its network predicts the
velocity v = epsilon - x_0.

Shapes: B batch, C latent channels, H latent size, T training timesteps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from workloads.backbones.scheduler_configs import is_flow, prediction_of

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
"""Quantity that a network predicts, as diffusers names it; `sample` is x_0."""
TABLE_PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""Predictions of schedules with an alpha_bar table."""
LEAST_ALPHA = 1e-3
"""Least alpha at which x_0 is computed from a predicted epsilon.

x_0 = (x_t - sigma epsilon) / alpha: below it, the rounding of a network in half precision (2^-11) alone
changes x_0 by half a standard deviation. With zero terminal SNR (arXiv 2305.08891) alpha is 0
at the last timestep.
"""
SCHEDULER_STEPS = 1000
"""Scale of the timesteps that diffusers' schedulers of flow matching feed: 1000 t."""


@dataclass(frozen=True)
class NoiseSchedule:
    """Tables over the training timesteps 0..T-1, and the quantity that the network predicts."""

    alpha: Tensor
    """Factor of x_0 at each timestep, (T,), falling."""
    sigma: Tensor
    """Factor of the noise at each timestep, (T,), rising."""
    time: Tensor
    """Number by which the network is told each timestep, (T,): the timestep itself, or 1000 t."""
    prediction: Prediction

    @classmethod
    def variance_preserving(cls, alpha_bar: Tensor, prediction: Prediction) -> "NoiseSchedule":
        """Return the schedule of an `alpha_bar` table (T,)."""
        time = torch.arange(len(alpha_bar), device=alpha_bar.device)
        return cls(alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), time, prediction)

    @classmethod
    def flow(cls, timesteps: int = SCHEDULER_STEPS, shift: float = 1.0) -> "NoiseSchedule":
        """Return a schedule of flow matching, whose timestep i stands for t = s u / (1 + (s - 1) u).

        u = (i + 1) / T, so that the last timestep is pure noise. The shift s moves timesteps towards noise
        (Esser et al. 2024, arXiv 2403.03206, eq. 23).
        """
        u = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
        t = shift * u / (1 + (shift - 1) * u)
        alpha, sigma, time = (part.float() for part in (1 - t, t, SCHEDULER_STEPS * t))
        return cls(alpha, sigma, time, "flow_prediction")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NoiseSchedule":
        """Build the schedule from the config of a diffusers scheduler.

        Raises:
            ValueError: The scheduler is of an unsupported kind, for example with continuous timesteps.
        """
        if is_flow(config):
            return cls.flow(config.get("num_train_timesteps", SCHEDULER_STEPS), flow_shift(config))
        kind: Any = prediction_of(config)
        # Continuous timesteps are logarithms of sigma (EDM, arXiv 2206.00364), not rows of a table.
        timesteps = config.get("timestep_type", "discrete")
        if kind not in TABLE_PREDICTIONS or "beta_schedule" not in config or timesteps != "discrete":
            raise ValueError(
                f"scheduler {config.get('_class_name')} with prediction_type {kind!r} and {timesteps} "
                f"timesteps is not supported; supported are flow matching and alpha_bar schedules with "
                f"{TABLE_PREDICTIONS}"
            )
        return cls.variance_preserving((1 - betas_of(config)).cumprod(0), kind)

    def __len__(self) -> int:
        """Return the number of training timesteps T."""
        return len(self.alpha)

    @property
    def is_flow(self) -> bool:
        """True for flow matching."""
        return self.prediction == "flow_prediction"

    @property
    def last_start(self) -> int:
        """The last timestep from which one step can go to x_0."""
        if self.prediction != "epsilon":
            return len(self) - 1
        return int((self.alpha >= LEAST_ALPHA).sum()) - 1

    def agrees_with(self, other: "NoiseSchedule") -> bool:
        """Return True if networks of both schedules can be averaged: the same prediction and tables."""
        if len(self) != len(other) or self.prediction != other.prediction:
            return False
        if self.is_flow:  # the shift chooses where t is sampled, not what the network is told
            return True
        return torch.allclose(self.alpha.square(), other.alpha.square(), rtol=1e-3, atol=1e-6)

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Return the schedule with its tables on `device`."""
        return self._map(lambda table: table.to(device))

    def shifted(self, shift: float) -> "NoiseSchedule":
        """Return this schedule of flow matching with another shift."""
        return NoiseSchedule.flow(len(self), shift).to(self.alpha.device)

    def alpha_sigma(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, each (B, 1, 1, 1), at `timestep` (B,)."""
        return self.alpha[timestep].view(-1, 1, 1, 1), self.sigma[timestep].view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Return x_t (B, C, H, H) of `latents` x_0 and `noise`, both (B, C, H, H), at `timestep` (B,)."""
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha * latents + sigma * noise

    def to_epsilon(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Convert a network's raw `output` at x_t = `noisy` to an epsilon prediction.

        v = alpha epsilon - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512, appendix D), so
        epsilon = alpha v + sigma x_t; in flow matching epsilon = x_t + alpha v. `output`, `noisy` and the
        result are (B, C, H, H), `timestep` (B,).
        """
        if self.prediction == "epsilon":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "flow_prediction":
            return noisy + alpha * output
        if self.prediction == "v_prediction":
            return alpha * output + sigma * noisy
        return (noisy - alpha * output) / sigma

    def to_latents(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Convert a network's raw `output` at x_t = `noisy` to an x_0 prediction; shapes as `to_epsilon`."""
        if self.prediction == "sample":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "flow_prediction":
            return noisy - sigma * output
        if self.prediction == "v_prediction":
            return alpha * noisy - sigma * output
        return (noisy - sigma * output) / alpha

    def denoising_error(
        self, output: Tensor, noisy: Tensor, latents: Tensor, noise: Tensor, timestep: Tensor
    ) -> Tensor:
        """Return the error (B, C, H, H) of a raw `output` at `noisy`, whose mean square a score trains on.

        In flow matching it is v - (epsilon - x_0) (arXiv 2403.03206, eq. 12); otherwise
        alpha_t (e - epsilon), as in SwiftBrush's code. Shapes as `add_noise`.
        """
        if self.is_flow:
            return output - (noise - latents)
        alpha, _ = self.alpha_sigma(timestep)
        return alpha * (self.to_epsilon(output, noisy, timestep) - noise)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "NoiseSchedule":
        return replace(self, alpha=change(self.alpha), sigma=change(self.sigma), time=change(self.time))


def flow_shift(config: dict[str, Any]) -> float:
    """Return the shift s of a flow-matching scheduler's config.

    A dynamic shift grows with the size of the picture: here it is exp(max_shift), that of the largest
    (diffusers' FlowMatchEulerDiscreteScheduler with `use_dynamic_shifting`).
    """
    if config.get("use_dynamic_shifting"):
        return float(torch.tensor(config.get("max_shift", 1.15), dtype=torch.float64).exp())
    return float(config.get("shift", config.get("flow_shift", 1.0)))


def betas_of(config: dict[str, Any]) -> Tensor:
    """Return the betas (T,) of a scheduler's config, for every beta schedule that diffusers knows."""
    betas: Tensor = DDPMScheduler.from_config(config).betas
    return betas
