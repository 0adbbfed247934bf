"""What all trials share, made before the first of them: encoded prompts, the teachers' references."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Evaluate
from orchestrator.data.prompt_encoding import PromptSet, encode_prompts, prepare_prompts
from orchestrator.data.shard_order import ShardSet
from orchestrator.planning.inference import InferencePlan
from orchestrator.planning.plan import Plan, Trial
from workloads.backbones.text_encoder_files import encoder_digest
from workloads.objectives.columns import Column, columns_of

REFERENCE_CPUS = 0.75
"""Asked for by each teacher that draws: on two CPUs two of them, and the data stage beside."""

EncodingKey = tuple[str, tuple[Column, ...]]
"""How prompts are read: source of the backbone whose text encoder does, and what else is made of them."""


@dataclass(frozen=True)
class Shared:
    """What the stages before the search made."""

    prompts: PromptSet
    shards: Mapping[EncodingKey, ShardSet]
    """Backbones with one text encoder have one."""
    negatives: Mapping[str, ShardSet]
    """The same of the negative prompts, if any trial trains with them."""
    references: Mapping[str, str]
    """By source of the backbone, names of files."""


def prepare(plan: Plan, store: Store, say: Callable[[str], None]) -> Shared:
    """The data stage and the teachers' references, side by side; what is there already is kept.

    Raises:
        UserError: no prompt is usable, or a part of a backbone cannot be read.
    """
    gpu = plan.gpus_per_trial > 0
    sources = list(dict.fromkeys(trial.source for trial in plan.trials))
    make = ray.remote(_make_reference).options(num_cpus=REFERENCE_CPUS, num_gpus=1 if gpu else 0)
    say(f"drawing with {len(sources)} teachers, reading prompts")
    pending = [make.remote(source, plan.sweep.evaluate, plan.infer, store.root) for source in sources]
    try:
        prompts = prepare_prompts(plan.sweep.prompts, store)
        aside = f", see {store.uri(prompts.folder)}/set_aside.jsonl" if prompts.set_aside else ""
        say(f"prompts: {prompts.prompts} used, {prompts.set_aside} set aside{aside}")
        shards = _encoded(prompts, dict.fromkeys(map(encoding_key, plan.trials)), store, gpu)
        negatives: Mapping[str, ShardSet] = {}
        if plan.sweep.negative_prompts is not None and plan.trains_with_negatives:
            found = prepare_prompts(plan.sweep.negative_prompts, store)
            say(f"negative prompts: {found.prompts} used, {found.set_aside} set aside")
            encoded = _encoded(found, [(source, ()) for source in sources], store, gpu)
            negatives = {source: shards for (source, _), shards in encoded.items()}
        folders = len({found.folder for found in shards.values()})
        say(f"shards: {len(prompts.rows)} for each of {folders} text encoders")
        references = dict(zip(sources, ray.get(pending), strict=True))
    except ray.exceptions.RayTaskError as error:
        raise UserError(" ".join(str(error.cause).split())) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    return Shared(prompts, shards, negatives, references)


def encoding_key(trial: Trial) -> EncodingKey:
    """How a trial's prompts are."""
    return trial.source, columns_of(trial.train)


def _encoded(
    prompts: PromptSet, wanted: Iterable[EncodingKey], store: Store, gpu: bool
) -> Mapping[EncodingKey, ShardSet]:
    return {
        (source, columns): encode_prompts(prompts, source, _digest(source, columns), store, gpu, columns)
        for source, columns in wanted
    }


def _digest(source: str, columns: Sequence[Column]) -> str:
    """Of all that reads."""
    encoder = encoder_digest(source)
    return digest([encoder, *(column.digest() for column in columns)]) if columns else encoder


def _make_reference(source: str, evaluate: Evaluate, infer: InferencePlan | None, root: str) -> str:
    """Imports in the task, not in the driver, what loads diffusers whole."""
    from orchestrator.evaluation.make_reference import make_reference

    return make_reference(source, evaluate, infer, root)
