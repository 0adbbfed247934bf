"""Settings of the objective `regression`: paired regression, and Diffusion2GAN (arXiv 2405.05967)."""

from dataclasses import dataclass, field
from typing import Literal

from workloads.settings.objectives.terms import AdversarialSettings, ClipLossSettings, RelationalSettings
from workloads.settings.pairs import PairSettings
from workloads.settings.train import COST, TrainSettings


@dataclass(frozen=True)
class RegressionSettings(TrainSettings):
    """A training on teacher pairs: the student maps each pair's noise to the teacher's latents."""

    objective: Literal["regression"] = field(default="regression", metadata=COST)
    pairs: PairSettings = field(default=PairSettings())
    """The teacher's pairs, which the data stage makes once for all trainings that name the same."""
    distance: Literal["mse", "features", "augmented_features"] = field(default="features", metadata=COST)
    """Distance of student's and teacher's latents. features: of the maps of a small frozen network;
    augmented_features: the same after a random transform, equal on both sides (E-LatentLPIPS). In our
    measurement (sweeps/README.md) the first of these two is nearest to the teacher."""
    features: str = "miniature/latents"
    """Weights of that network, which `relational` uses too: `miniature/latents`, or a safetensors file of
    `LatentFeatures`."""
    adversarial: AdversarialSettings | None = field(default=None, metadata=COST)
    """Loss of a discriminator that starts as the teacher; None: regression alone."""
    relational: RelationalSettings | None = field(default=None, metadata=COST)
    """Loss on relations between positions and samples (RDD); None: no such loss."""
    clip: ClipLossSettings | None = field(default=None, metadata=COST)
    """CLIP loss added to the student's loss; None: no CLIP loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.student_steps != 1:
            raise ValueError(
                f"student_steps must be 1 for the objective regression, not {self.student_steps}"
            )
        if self.flow_shift is not None:
            raise ValueError("flow_shift moves timesteps that regression does not draw: leave it out")

    @property
    def reads_features(self) -> bool:
        """True if the training needs the network of `features`."""
        return self.distance != "mse" or self.relational is not None

    @property
    def teacher_scales(self) -> tuple[float, float]:
        return (self.pairs.guidance_scale,) * 2

    @property
    def teacher_pairs(self) -> PairSettings:
        return self.pairs

    @property
    def clip_model(self) -> str | None:
        return None if self.clip is None else self.clip.model
