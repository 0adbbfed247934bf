"""Noise schedules: alpha_bar tables, and conversions between epsilon, v and x_0.

Convention: x_t = alpha_t x_0 + sigma_t epsilon, alpha_t = sqrt(alpha_bar_t), sigma_t = sqrt(1 - alpha_bar_t)
(Ho et al. 2020, arXiv 2006.11239, eq. 4).

Shapes: B batch, C latent channels, H latent size, T training timesteps.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""Quantity that a network predicts, as diffusers names it; `sample` is x_0."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The alpha_bar of every training timestep, and the quantity that the network predicts."""

    alpha_bar: Tensor
    """(T,) float32, falling from almost 1."""
    prediction: Prediction

    @classmethod
    def from_config(cls, config: dict[str, object]) -> "NoiseSchedule":
        """Build the schedule from the config of any diffusers scheduler with an alpha_bar table.

        Raises:
            ValueError: The scheduler is of another kind, for example flow matching.
        """
        kind = config.get("prediction_type", "epsilon")
        if kind not in get_args(Prediction) or "beta_schedule" not in config:
            raise ValueError(
                f"scheduler {config.get('_class_name')} with prediction_type {kind!r} is not "
                f"supported; supported are alpha_bar schedules with {get_args(Prediction)}"
            )
        return cls(DDPMScheduler.from_config(config).alphas_cumprod.clone(), kind)  # type: ignore[arg-type]

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
