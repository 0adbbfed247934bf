"""Checks of backbones before anything is started: present, complete, and of a supported family."""

import json
from pathlib import Path

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import refuse_credentials
from orchestrator.planning.plan import Plan
from workloads.backbones.architectures import architecture_of
from workloads.backbones.families import check_start, check_student_steps, family_of
from workloads.backbones.file_checks import check_files
from workloads.backbones.loras.files import find_files
from workloads.miniature import FEATURES, WEIGHTS
from workloads.objectives.columns import columns_of, features_channels
from workloads.settings.objectives.regression import RegressionSettings

TIMESTEPS = 1000
"""Timesteps of the miniatures' schedules, of which a student can be called at any."""


def check_backbones(plan: Plan) -> None:
    """Check every backbone, every pipeline that a student starts from, and the models objectives need.

    For an id on the hub only the model index is read; folders are checked as far as possible without
    opening weights.

    Raises:
        UserError: names the backbone, what is wrong, and what is supported.
    """
    try:
        _check(plan)
    except ValueError as error:
        raise UserError(str(error)) from None


def _check(plan: Plan) -> None:
    starts = {(t.train.start_from, t.source) for t in plan.trials if t.train.start_from}
    sources = dict.fromkeys([t.source for t in plan.trials] + sorted(start for start, _ in starts))
    for source in sources:
        refuse_credentials("backbone", source)
        family_of(source)
    folders = [source for source in sources if Path(source).is_dir()]
    for folder in folders:
        check_files(folder)
    for start, source in starts:
        check_start(start, source)
    _check_loras(plan)
    _check_attention(plan)
    _check_flow(plan)
    _check_student_steps(plan)
    columns = (column for trial in plan.trials for column in columns_of(trial.train, trial.teacher))
    for column in dict.fromkeys(columns):
        column.digest()
    _check_features(plan)
    # The shipped miniatures fit, and skipping them spares their sweeps the import of diffusers.
    own = [folder for folder in folders if WEIGHTS not in Path(folder).parents]
    if own:
        _check_shapes(own, starts)
    called = {(trial.source, trial.backbone.start_timestep) for trial in plan.trials}
    _check_timesteps({(source, at) for source, at in called if source in own or (at or 0) >= TIMESTEPS})


def _check_loras(plan: Plan) -> None:
    """Check LoRAs, which are downloaded if need be; whether they fit is checked for local teachers alone."""
    for teacher in dict.fromkeys(trial.teacher for trial in plan.trials if trial.loras):
        for lora in teacher.loras:
            refuse_credentials("lora", lora.path)
            find_files(lora.path)
        if Path(teacher.source).is_dir():
            # Imports torch and diffusers, which sweeps without LoRAs need not wait for.
            from workloads.backbones.loras.merge import check_loras

            check_loras(teacher.source, teacher.loras)


def _check_attention(plan: Plan) -> None:
    """Refuse NASA where text and image share their attention, if nothing else would be left to do."""
    for trial in plan.trials:
        name = trial.backbone.name
        if family_of(trial.source).has_guidance("nasa"):
            continue
        if trial.train.trains_with_negatives:
            raise ValueError(
                f"backbone {name}: nasa_interval needs cross-attention, and this backbone has joint "
                f"attention: leave it out for this backbone"
            )
        if plan.infer is not None and plan.infer.pairs and len(plan.infer.arms_of(trial.source)) == 1:
            raise ValueError(
                f"backbone {name}: infer.attention_guidance has nasa alone, which is not defined for joint "
                f"attention: add nag or vsf"
            )


def _check_features(plan: Plan) -> None:
    """Check that the features of a distance are for the latents of the backbone.

    The shipped ones have seen the miniatures' latents alone, so other backbones must name theirs.
    """
    asked = {
        (trial.train.features, trial.source)
        for trial in plan.trials
        if isinstance(trial.train, RegressionSettings) and trial.train.reads_features
    }
    for features, source in sorted(asked):
        if features == FEATURES and WEIGHTS not in Path(source).parents:
            raise ValueError(
                f"backbone {source!r}: train.features {features!r} knows the miniatures' latents alone: "
                f"name a file of LatentFeatures that is trained on this backbone's, or set train.distance to "
                f"mse and leave train.relational out"
            )
        architecture = architecture_of(source)
        channels = None if architecture is None else json.loads(architecture.network).get("in_channels")
        found = features_channels(features)
        if channels is not None and found != channels:
            raise ValueError(
                f"backbone {source!r}: train.features {features!r} is for latents of {found} channels, and "
                f"this backbone has {channels}: name other features, or set train.distance to mse and leave "
                f"train.relational out"
            )


def _check_flow(plan: Plan) -> None:
    for trial in plan.trials:
        if trial.train.flow_shift is not None and not family_of(trial.source).flow:
            raise ValueError(
                f"backbone {trial.backbone.name}: flow_shift is a setting of flow matching, and this "
                f"backbone has an alpha_bar schedule: set it under train of the other backbones alone"
            )


def _check_student_steps(plan: Plan) -> None:
    for trial in plan.trials:
        family, steps = family_of(trial.source), trial.train.student_steps
        if steps > 1:
            start = trial.backbone.start_timestep or family.start_timestep
            check_student_steps(trial.backbone.name, family, start, steps)


def _check_shapes(folders: list[str], starts: set[tuple[str, str]]) -> None:
    from workloads.backbones.shape_checks import check_shapes

    shapes = {folder: check_shapes(folder) for folder in folders}
    for start, source in starts:
        if start in shapes and source in shapes and shapes[start] != shapes[source]:
            raise ValueError(f"student start_from {start!r} does not have the shapes of {source!r}")


def _check_timesteps(called: set[tuple[str, int | None]]) -> None:
    """Check the timesteps at which students are called, each with its teacher's folder."""
    if called:
        from workloads.backbones.backbone import load_schedule, resolve_start

        for source, start in sorted(called, key=str):
            resolve_start(source, load_schedule(source), start)
