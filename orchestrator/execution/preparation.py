"""The stages before the search, whose results all trials share: encoded prompts and teacher references."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import ray

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import STORAGE_ERRORS, Store
from orchestrator.config.evaluation_schema import Evaluate
from orchestrator.data.prompt_encoding import PromptSet, encode_prompts, prepare_prompts
from orchestrator.data.shard_order import ShardSet
from orchestrator.planning.inference import InferencePlan
from orchestrator.planning.plan import Plan, Trial
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.objectives.columns import Column, columns_of

logger = logging.getLogger(__name__)
REFERENCE_CPUS = 0.75
"""CPUs of each task that draws with a teacher: on two CPUs two of them fit, and the data stage beside."""

EncodingKey = tuple[TeacherSource, tuple[Column, ...]]
"""Key of a trial's encoded prompts: its teacher, and the extra columns of its objective."""


@dataclass(frozen=True)
class Shared:
    """Results of the stages before the search."""

    prompts: PromptSet
    shards: Mapping[EncodingKey, ShardSet]
    """Encoded prompts; backbones with the same text encoder share them."""
    negatives: Mapping[TeacherSource, ShardSet]
    """Encoded negative prompts by teacher, if any trial trains with them."""
    references: Mapping[TeacherSource, str]
    """Files of the teachers' references."""


def prepare(plan: Plan, store: Store) -> Shared:
    """Encode prompts and draw with the teachers, side by side; results that exist are kept.

    Raises:
        UserError: no prompt is usable, or a part of a backbone cannot be read.
    """
    gpu = plan.gpus_per_trial > 0
    teachers = list(dict.fromkeys(trial.teacher for trial in plan.trials))
    make = ray.remote(_make_reference).options(num_cpus=REFERENCE_CPUS, num_gpus=1 if gpu else 0)
    logger.info("drawing with %d teachers, reading prompts", len(teachers))
    pending = [make.remote(teacher, plan.sweep.evaluate, plan.infer, store.root) for teacher in teachers]
    try:
        prompts = prepare_prompts(plan.sweep.prompts, store)
        _log_prompts("prompts", prompts, store)
        shards = _encoded(prompts, dict.fromkeys(map(encoding_key, plan.trials)), store, gpu)
        cut = {trial.backbone.name: shards[encoding_key(trial)].cut for trial in plan.trials}
        prompts = replace(prompts, cut=cut)
        negatives = _negatives(plan, teachers, store, gpu)
        folders = len({found.folder for found in shards.values()})
        logger.info("shards: %d for each of %d text encoders", len(prompts.rows), folders)
        references = dict(zip(teachers, ray.get(pending), strict=True))
    except ray.exceptions.RayTaskError as error:
        raise _reported(error, store) from None
    except ray.exceptions.ActorDiedError as error:
        # Of an actor that could not begin: its error is the last line of a traceback, after the error's type.
        raise UserError(str(error).strip().splitlines()[-1].partition(": ")[2] or str(error)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return Shared(prompts, shards, negatives, references)


def _reported(error: ray.exceptions.RayTaskError, store: Store) -> Exception:
    """Return the error of a task as one that ends the launch in a line."""
    cause = error.cause
    if isinstance(cause, OSError) and cause.errno in STORAGE_ERRORS:
        # Ray Data puts advice of its own in the place of the file's name.
        return OSError(cause.errno, cause.strerror, store.root)
    return UserError(" ".join(str(cause).split()))


def encoding_key(trial: Trial) -> EncodingKey:
    """Return the key of a trial's encoded prompts."""
    return trial.teacher, columns_of(trial.train, trial.teacher)


def _log_prompts(name: str, prompts: PromptSet, store: Store) -> None:
    aside = f", see {store.uri(prompts.folder)}/set_aside.jsonl" if prompts.set_aside else ""
    logger.info("%s: %d used, %d set aside%s", name, prompts.prompts, prompts.set_aside, aside)


def _negatives(
    plan: Plan, teachers: Sequence[TeacherSource], store: Store, gpu: bool
) -> Mapping[TeacherSource, ShardSet]:
    if plan.sweep.negative_prompts is None or not plan.trains_with_negatives:
        return {}
    found = prepare_prompts(plan.sweep.negative_prompts, store)
    _log_prompts("negative prompts", found, store)
    encoded = _encoded(found, [(teacher, ()) for teacher in teachers], store, gpu, negative=True)
    return {teacher: shards for (teacher, _), shards in encoded.items()}


def _encoded(
    prompts: PromptSet, wanted: Iterable[EncodingKey], store: Store, gpu: bool, negative: bool = False
) -> Mapping[EncodingKey, ShardSet]:
    digests = {key: _digest(*key, negative) for key in wanted}
    return {
        (teacher, columns): encode_prompts(prompts, teacher, encoder, store, gpu, columns, negative)
        for (teacher, columns), encoder in digests.items()
    }


def _digest(teacher: TeacherSource, columns: Sequence[Column], negative: bool) -> str:
    """Return the digest of the text encoder and the extra columns."""
    encoder = encoder_digest(teacher.source, negative=negative, loras=teacher.loras)
    return digest([encoder, *(column.digest() for column in columns)]) if columns else encoder


def _make_reference(
    teacher: TeacherSource, evaluate: Evaluate, infer: InferencePlan | None, root: str
) -> str:
    """Run as a Ray task; the task and not the driver imports diffusers."""
    from orchestrator.evaluation.make_reference import make_reference

    return make_reference(teacher, evaluate, infer, root)
