"""Noise schedules in float64 with their conversions written out by hand, for derivations of objectives.

They share no code with `workloads.backbones.noise_schedule`, whose object they also give to the objective.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.backbones.noise_schedule import NoiseSchedule, Prediction

PREDICTIONS: list[Prediction] = ["epsilon", "v_prediction", "sample", "flow_prediction"]
SHIFT = 3.0


@dataclass
class ByHand:
    """The schedule of one prediction type: alpha_bar for the first three, flow matching for the last."""

    prediction: Prediction

    def __post_init__(self) -> None:
        self.flow = self.prediction == "flow_prediction"
        if self.flow:
            grid = [(i + 1) / 1000 for i in range(1000)]
            t = torch.tensor([SHIFT * u / (1 + (SHIFT - 1) * u) for u in grid], dtype=torch.float64)
            self.a, self.s, self.shown = 1 - t, t, 1000 * t
        else:
            bar = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64)
            self.a, self.s, self.shown = bar**0.5, (1 - bar) ** 0.5, torch.arange(1000)

    def schedule(self) -> NoiseSchedule:
        """Return the object under test with these tables."""
        return NoiseSchedule(self.a, self.s, self.shown, self.prediction)

    def both(self, output: Tensor, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_0 and epsilon of an output at x_t = `x`, (B, C, H, H); `index` is (B,)."""
        a, s = (table[index].reshape(-1, 1, 1, 1) for table in (self.a, self.s))
        if self.prediction == "epsilon":
            return (x - s * output) / a, output
        if self.prediction == "sample":
            return output, (x - a * output) / s
        if self.prediction == "v_prediction":
            x0 = a * x - s * output
            return x0, (x - a * x0) / s
        # Two linear equations: x = (1 - t) x_0 + t e and v = e - x_0.
        t = s
        return x - t * output, x + (1 - t) * output
