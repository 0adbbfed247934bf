"""Relational terms on teacher pairs (Relational Diffusion Distillation, RDD: arXiv 2410.07679).

Let F be the maps of a frozen network on latents, with features of unit length at each position, and f their
means over positions; T the teacher's latents of a batch and S the student's. With KL(p || q) of softmaxes:

    class    mean_i KL(softmax(f_i(T) / a) || softmax(f_i(S)))
    pixel    mean_ij mean_p KL(softmax(F_i(T)_p F_j(T)') || softmax(F_i(S)_p F_j(S)'))    over all pairs i, j
    bank     mean_i mean_p KL(softmax(F_i(T)_p B' / b) || softmax(F_i(S)_p B' / b))       B: a bank of them

The published bank is a queue of the teacher's positions from earlier steps, which would be state of the
training. Here it is the teacher's positions of the batch. Pixel and bank read the samples of one worker
together, so results depend on the number of workers by more than rounding.

Shapes: B batch, C latent channels, H latent size, P positions, W width of the features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.backbones.backbone import Backbone
from workloads.layers.latent_features import LatentFeatures
from workloads.objectives.columns import TEACHER_LATENTS
from workloads.objectives.terms import NoDraws, Term, TermInputs
from workloads.settings.objectives.terms import RelationalSettings


class Relational(Term[NoDraws]):
    """The weighted sum of the three losses; see the module's docstring."""

    name = "relational_loss"

    def __init__(self, backbone: Backbone, settings: RelationalSettings, features: LatentFeatures) -> None:
        """`features` is the frozen network, of which the last map is read."""
        super().__init__()
        self.settings, self.features, self._shape = settings, features, backbone.latent_shape

    def weight(self, step: int) -> float:
        return 1.0

    def loss(self, latents: Tensor, inputs: TermInputs[NoDraws]) -> Tensor:
        target = inputs.batch.columns[TEACHER_LATENTS].view(-1, *self._shape)
        return self(latents, target)

    def __call__(self, latents: Tensor, target: Tensor) -> Tensor:
        """Return the loss (scalar) of the student's latents and the teacher's, both (B, C, H, H)."""
        settings = self.settings
        of_student, of_teacher = (self.features(each)[-1] for each in (latents, target))
        student, teacher = positions(of_student), positions(of_teacher)
        return (
            settings.class_weight
            * class_loss(of_student.mean((2, 3)), of_teacher.mean((2, 3)), settings.class_temperature)
            + settings.pixel_weight * pixel_loss(student, teacher)
            + settings.bank_weight
            * bank_loss(student, teacher, teacher.flatten(0, 1), settings.bank_temperature)
        )


def positions(maps: Tensor) -> Tensor:
    """Return unit features (B, P, W) of maps (B, W, H, H)."""
    return F.normalize(maps.flatten(2).transpose(1, 2), dim=-1)


def class_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the loss (scalar) of pooled features (B, W); the teacher's are divided by `temperature`."""
    return _divergence(student, teacher / temperature)


def pixel_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the loss (scalar) of similarities between all positions (B, P, W) of all pairs of samples."""
    similar = [torch.einsum("ipw,jqw->ijpq", each, each) for each in (student, teacher)]
    return _divergence(*similar)


def bank_loss(student: Tensor, teacher: Tensor, bank: Tensor, temperature: float) -> Tensor:
    """Return the loss (scalar) of similarities of positions (B, P, W) to those of a bank (N, W)."""
    return _divergence(student @ bank.T / temperature, teacher @ bank.T / temperature)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over rows (scalar) of KL(softmax(teacher) || softmax(student)), over the last axis."""
    wanted, found = F.log_softmax(teacher, -1), F.log_softmax(student, -1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()
