"""The objective of a training, made from its settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

from workloads.backbones.autoencoders import Autoencoder
from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.base import Objective
from workloads.objectives.boot import BOOT
from workloads.objectives.pgsb import PGSB
from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import StepSettings, TrainSettings
from workloads.students.student import load_autoencoder


def make_objective(
    backbone: Backbone,
    null: Conditioning,
    train: TrainSettings,
    step: StepSettings = StepSettings(),  # noqa: B008  (frozen)
    autoencoder: Callable[[], Autoencoder] | None = None,
) -> Objective[Any]:
    """Return the objective that `train.objective` names, with a CLIP loss if `train.clip` is set.

    The objective may insert adapters into the backbone's network: copy the student from it before.

    Args:
        null: conditioning of the empty prompt (B = 1).
        autoencoder: opens the backbone's autoencoder, for an objective that decodes latents; by
            default it is read from the backbone's folder.

    Raises:
        ValueError: a model that the objective needs is not on this machine, or the backbone has the
            rungs of another number of steps than `train`; see `with_student_steps`.
    """
    if backbone.student_steps != train.student_steps:
        raise ValueError(f"the backbone is for {backbone.student_steps} steps, not {train.student_steps}")
    backbone = backbone.with_flow_shift(train.flow_shift)
    if isinstance(train, BootSettings):
        return BOOT(backbone, null, train)
    assert isinstance(train, PGSBSettings)
    objective = PGSB(backbone, null, train, step.score_batch)
    if train.clip is None:
        return objective
    from workloads.objectives.clip_loss import WithClipLoss, load_clip_loss  # transformers: seconds

    opens = autoencoder or partial(load_autoencoder, backbone.source, backbone.device)
    return WithClipLoss(objective, load_clip_loss(train.clip, train.steps, backbone.device, opens))
