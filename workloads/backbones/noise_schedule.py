"""Noise schedules: alpha_bar tables, and conversions between epsilon, v and x0.

Convention: x_t = alpha_t x_0 + sigma_t epsilon, alpha_t = sqrt(alpha_bar_t),
sigma_t = sqrt(1 - alpha_bar_t). Shapes: B batch, C channels, H latent size, T timesteps.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The alpha_bar of every training timestep, and what the network predicts."""

    alpha_bar: Tensor
    """(T,) float32, falling from almost 1."""
    prediction: Prediction

    @classmethod
    def from_config(cls, config: dict[str, object]) -> "NoiseSchedule":
        """Reads the config of any diffusers scheduler of the alpha_bar kind.

        Raises:
            ValueError: the scheduler is of another kind (flow matching, say).
        """
        kind = config.get("prediction_type", "epsilon")
        if kind not in get_args(Prediction) or "beta_schedule" not in config:
            raise ValueError(
                f"scheduler {config.get('_class_name')} with prediction_type {kind!r} is not "
                f"supported; supported are alpha_bar schedules with {get_args(Prediction)}"
            )
        return cls(DDPMScheduler.from_config(config).alphas_cumprod.clone(), kind)  # type: ignore[arg-type]

    def to(self, device: torch.device) -> "NoiseSchedule":
        return NoiseSchedule(self.alpha_bar.to(device), self.prediction)

    def alpha_sigma(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma at `timestep` (B,), each (B, 1, 1, 1)."""
        alpha_bar = self.alpha_bar[timestep].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t of `latents` (B, C, H, H) under `noise` (B, C, H, H) at `timestep` (B,)."""
        alpha, sigma = self.alpha_sigma(timestep)
        return alpha * latents + sigma * noise

    def to_epsilon(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """The epsilon that the network's raw `output` at x_t = `noisy` amounts to; all (B, C, H, H).

        v = alpha epsilon - sigma x_0 (Salimans and Ho 2022), so epsilon = alpha v + sigma x_t.
        """
        if self.prediction == "epsilon":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "v_prediction":
            return alpha * output + sigma * noisy
        return (noisy - alpha * output) / sigma

    def to_latents(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """The x_0 that the network's raw `output` at x_t = `noisy` amounts to; all (B, C, H, H)."""
        if self.prediction == "sample":
            return output
        alpha, sigma = self.alpha_sigma(timestep)
        if self.prediction == "v_prediction":
            return alpha * noisy - sigma * output
        return (noisy - sigma * output) / alpha
