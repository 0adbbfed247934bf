"""The objective of a training, made from its settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

from workloads.backbones.autoencoders import Autoencoder
from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.latent_features import LatentFeatures, load_features
from workloads.miniature import features_file
from workloads.objectives.adversarial import Adversarial
from workloads.objectives.base import Objective
from workloads.objectives.boot import BOOT
from workloads.objectives.pgsb import PGSB
from workloads.objectives.regression import Regression
from workloads.objectives.relational import Relational
from workloads.objectives.terms import Term, WithTerms
from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.train import StepSettings, TrainSettings
from workloads.students.student import load_autoencoder


def make_objective(
    backbone: Backbone,
    null: Conditioning,
    train: TrainSettings,
    step: StepSettings = StepSettings(),  # noqa: B008  (frozen)
    autoencoder: Callable[[], Autoencoder] | None = None,
) -> Objective[Any]:
    """Return the objective that `train.objective` names, with the terms that the settings add.

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
    opens = autoencoder or partial(load_autoencoder, backbone.source, backbone.device)
    terms: list[Term[Any]] = []
    if isinstance(train, RegressionSettings) and train.adversarial is not None:
        terms.append(Adversarial(backbone, train.adversarial))
    objective = _plain(backbone, null, train, step)
    if isinstance(train, RegressionSettings) and train.relational is not None:
        terms.append(Relational(backbone, train.relational, _features(backbone, train)))
    if isinstance(train, PGSBSettings | RegressionSettings) and train.clip is not None:
        from workloads.objectives.clip_loss import load_clip_loss  # transformers: seconds

        steps, student_steps = train.steps, backbone.student_steps
        terms.append(load_clip_loss(train.clip, steps, backbone.device, opens, student_steps))
    return WithTerms(objective, terms) if terms else objective


def _plain(
    backbone: Backbone, null: Conditioning, train: TrainSettings, step: StepSettings
) -> Objective[Any]:
    """Return the objective without terms."""
    if isinstance(train, BootSettings):
        return BOOT(backbone, null, train)
    if isinstance(train, RegressionSettings):
        return Regression(backbone, train, None if train.distance == "mse" else _features(backbone, train))
    assert isinstance(train, PGSBSettings)
    return PGSB(backbone, null, train, step.score_batch)


def _features(backbone: Backbone, train: RegressionSettings) -> LatentFeatures:
    """Return the frozen network of features; on the device "meta" without weights, to estimate memory."""
    channels = backbone.latent_shape[0]
    if backbone.device.type == "meta":
        with backbone.device:
            return LatentFeatures(channels).requires_grad_(False).eval()
    return load_features(features_file(train.features), channels).to(backbone.device)
