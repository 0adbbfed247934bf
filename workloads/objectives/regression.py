"""Paired regression: the student maps the noise of each teacher pair to the latents that the teacher draws.

    L = mean d(f(z, y), x)

for pairs (z, y, x): noise z, prompt y, and the latents x that the teacher draws from z with a deterministic
sampler. The distance d is one of `latent_distance`. With the discriminator of `adversarial` it is
Diffusion2GAN (Kang et al. 2024, arXiv 2405.05967). The teacher draws the pairs before the training (`pairs`)
and is not asked during it.

Shapes: B batch, C latent channels, H latent size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone
from workloads.backbones.network_calls import Network
from workloads.layers.latent_features import LatentFeatures, feature_distance
from workloads.objectives.base import SPREAD, STUDENT, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.columns import NOISE_SEED, TEACHER_LATENTS
from workloads.objectives.latent_distance import Transforms, draw_transforms
from workloads.objectives.pairs import NOISE, noise_of
from workloads.settings.objectives.regression import RegressionSettings


@dataclass(frozen=True)
class RegressionDraws:
    """Random numbers of one step."""

    transforms: Transforms

    def __getitem__(self, rows: slice) -> "RegressionDraws":
        return RegressionDraws(self.transforms[rows])


class Regression(Objective[RegressionDraws]):
    """Paired regression for one backbone; see the module's docstring."""

    metric_names = ("student_loss", "mean_square_error", SPREAD)

    def __init__(
        self, backbone: Backbone, settings: RegressionSettings, features: LatentFeatures | None
    ) -> None:
        """`features` is the frozen network of the distance; None if the distance is `mse`."""
        super().__init__(backbone)
        self.settings, self.features = settings, features
        width = backbone.latent_shape[0] * backbone.latent_shape[1] * backbone.latent_shape[2]
        self.columns = {NOISE: width, TEACHER_LATENTS: width}

    def prepare(self, batch: Batch) -> Batch:
        """Replace the column of seeds by the noise that they stand for."""
        columns = dict(batch.columns)
        noise = noise_of(columns.pop(NOISE_SEED).flatten(), self.backbone.latent_shape)
        return replace(batch, columns={**columns, NOISE: noise.flatten(1)})

    def draw(self, batch: int, generator: torch.Generator) -> RegressionDraws:
        return RegressionDraws(draw_transforms(batch, generator))

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: RegressionDraws, step: int
    ) -> Iterator[Update]:
        shape = (-1, *self.backbone.latent_shape)
        noise, target = (batch.columns[name].view(shape) for name in (NOISE, TEACHER_LATENTS))
        latents = self.backbone.one_step(networks[STUDENT], noise, batch.prompts)
        error = (latents.detach() - target).square().mean()
        loss = self.distance(latents, target, draws.transforms)
        yield Update(STUDENT, loss, {"mean_square_error": error}, latents)

    def distance(self, latents: Tensor, target: Tensor, transforms: Transforms) -> Tensor:
        """Return the distance (scalar) of the student's latents from the teacher's, both (B, C, H, H)."""
        if self.features is None:
            return (latents - target).square().mean()
        if self.settings.distance == "augmented_features":
            latents, target = transforms(latents), transforms(target)
        return feature_distance(self.features, latents, target).mean()
