"""Noise schedules: alpha_bar tables, and conversions between epsilon, v and x_0.

Convention: x_t = alpha_t x_0 + sigma_t epsilon, alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t)
(Ho et al. 2020, arXiv 2006.11239, eq. 4).

Shapes: B batch, C latent channels, H latent size, T training timesteps.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""Quantity that a network predicts, as diffusers names it; `sample` is x_0."""
LEAST_ALPHA = 1e-3
"""Least alpha at which x_0 is computed from a predicted epsilon.

x_0 = (x_t - sigma epsilon) / alpha: below it, the rounding of a network in half precision (2^-11) alone
changes x_0 by half a standard deviation. With zero terminal SNR (arXiv 2305.08891) alpha is 0
at the last timestep.
"""


@dataclass(frozen=True)
class NoiseSchedule:
    """The alpha_bar of every training timestep, and the quantity that the network predicts."""

    alpha_bar: Tensor
    """(T,) float32, falling from almost 1."""
    prediction: Prediction

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NoiseSchedule":
        """Build the schedule from the config of any diffusers scheduler with an alpha_bar table.

        Raises:
            ValueError: The scheduler is of another kind, for example flow matching.
        """
        kind = config.get("prediction_type", "epsilon")
        # Continuous timesteps are logarithms of sigma (EDM, arXiv 2206.00364), not rows of a table.
        timesteps = config.get("timestep_type", "discrete")
        if kind not in get_args(Prediction) or "beta_schedule" not in config or timesteps != "discrete":
            raise ValueError(
                f"scheduler {config.get('_class_name')} with prediction_type {kind!r} and {timesteps} "
                f"timesteps is not supported; supported are alpha_bar schedules with {get_args(Prediction)}"
            )
        return cls((1 - betas_of(config)).cumprod(0), kind)

    @property
    def last_start(self) -> int:
        """The last timestep from which one step can go to x_0."""
        if self.prediction != "epsilon":
            return len(self.alpha_bar) - 1
        return int((self.alpha_bar.sqrt() >= LEAST_ALPHA).sum()) - 1

    def agrees_with(self, other: "NoiseSchedule") -> bool:
        """Return True if networks of both schedules can be averaged: the same prediction and alpha_bar."""
        tables = (self.alpha_bar, other.alpha_bar)
        same = len(tables[0]) == len(tables[1]) and torch.allclose(*tables, rtol=1e-3, atol=1e-6)
        return same and self.prediction == other.prediction

    def to(self, device: torch.device) -> "NoiseSchedule":
        """Return the schedule with its table on `device`."""
        return NoiseSchedule(self.alpha_bar.to(device), self.prediction)

    def alpha_sigma(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, each (B, 1, 1, 1), at `timestep` (B,)."""
        alpha_bar = self.alpha_bar[timestep].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Return x_t (B, C, H, H) of `latents` x_0 and `noise`, both (B, C, H, H), at `timestep` (B,)."""
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha * latents + sigma * noise

    def to_epsilon(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Convert a network's raw `output` at x_t = `noisy` to an epsilon prediction.

        v = alpha epsilon - sigma x_0 (Salimans and Ho 2022, arXiv 2202.00512, appendix D), so
        epsilon = alpha v + sigma x_t. `output`, `noisy` and the result are (B, C, H, H), `timestep` (B,).
        """
        if self.prediction == "epsilon":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "v_prediction":
            return alpha * output + sigma * noisy
        return (noisy - alpha * output) / sigma

    def to_latents(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """Convert a network's raw `output` at x_t = `noisy` to an x_0 prediction; shapes as `to_epsilon`."""
        if self.prediction == "sample":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "v_prediction":
            return alpha * noisy - sigma * output
        return (noisy - sigma * output) / alpha


def betas_of(config: dict[str, Any]) -> Tensor:
    """Return the betas (T,) of a scheduler's config, for every beta schedule that diffusers knows."""
    betas: Tensor = DDPMScheduler.from_config(config).betas
    return betas
