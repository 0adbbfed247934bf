"""From the settings of a training to its objective."""

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers import AutoencoderKL

from workloads.backbones.backbone import Backbone
from workloads.backbones.conditioning import Conditioning
from workloads.objectives.base import Objective
from workloads.objectives.boot import BOOT
from workloads.objectives.pgsb import PGSB
from workloads.settings.train import StepSettings, TrainSettings
from workloads.students.student import load_autoencoder


def make_objective(
    backbone: Backbone,
    null: Conditioning,
    train: TrainSettings,
    step: StepSettings = StepSettings(),  # noqa: B008  (frozen)
    autoencoder: Callable[[], AutoencoderKL] | None = None,
) -> Objective[Any]:
    """The objective that `train` names; `null` is the conditioning of the empty prompt (B = 1).

    It may put adapters into the backbone's network, so a student must have been copied before.
    `autoencoder` opens the backbone's, for an objective that decodes; by default from its folder.

    Raises:
        ValueError: a model that the objective needs is not on this machine.
    """
    if train.objective == "boot":
        return BOOT(backbone, null, train)
    objective = PGSB(backbone, null, train, step.score_batch)
    if train.clip is None:
        return objective
    from workloads.objectives.clip_loss import WithClipLoss, load_clip_loss  # transformers: seconds

    usual = partial(load_autoencoder, backbone.source, backbone.device)
    return WithClipLoss(
        objective, load_clip_loss(train.clip, train.steps, backbone.device, autoencoder or usual)
    )
