"""Compatibility of a sweep file with the results in the storage.

A changed file may add trials but not alter finished ones. A trial is its backbone, settings and prompts
(`Trial.digest`); its result also depends on the `evaluate` section. Results under other settings are not
comparable, so a launch that would mix them is refused.
"""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.planning.plan import Plan, Trial
from orchestrator.results.ledger import result_file

Settings = Mapping[str, Any]
"""Settings as JSON holds them, by name."""
_NOT_OF_TRIAL = ("evaluate", "prompts.digest")
"""Names in a stored identity that are no settings of its trial."""
WAY_OUT = "restore it, or give this sweep another name (--set name=...)"


def trial_identity(plan: Plan, trial: Trial, prompts: PromptSet) -> dict[str, Any]:
    """Return the settings and digests that are kept with a result, to compare with a later file."""
    return {**_settings(trial), "evaluate": _evaluate(plan), "prompts.digest": prompts.digest}


def check_resumable(plan: Plan, store: Store, prompts: PromptSet | None) -> None:
    """Compare the plan, and its prompts once they are known, with the results in the storage.

    Raises:
        UserError: a finished trial, its evaluation or its prompts have changed.
    """
    planned = {trial.digest for trial in plan.trials}
    for name in store.files(f"{plan.sweep.name}/results"):
        kept = _stored_identity(store, name)
        digest = name.rsplit("/", 1)[-1].removesuffix(".json")
        if digest in planned:
            _compare(digest, kept, plan, prompts)
        else:
            _check_not_replaced(digest, kept, plan, store)


def _stored_identity(store: Store, name: str) -> Settings:
    try:
        kept: Settings = store.read_json(name)["identity"]
        return kept
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{store.uri(name)}: is incomplete or of an earlier version: delete it to repeat its trial; "
            f"or {WAY_OUT}"
        ) from None


def _evaluate(plan: Plan) -> Settings:
    """Return the `evaluate` section without the number of evaluations, which changes no score."""
    section: Settings = plan.sweep.evaluate.model_dump(mode="json", exclude={"evaluations"})
    return section


def _compare(digest: str, kept: Settings, plan: Plan, prompts: PromptSet | None) -> None:
    for key, value in _evaluate(plan).items():
        if kept["evaluate"][key] != value:
            raise _altered(plan, digest, f"evaluate.{key}", kept["evaluate"][key], value)
    if prompts is not None and prompts.digest != kept["prompts.digest"]:
        raise _altered(plan, digest, "prompts of digest", kept["prompts.digest"], prompts.digest)


def _check_not_replaced(digest: str, kept: Settings, plan: Plan, store: Store) -> None:
    """Refuse a plan in which a new trial takes the place of a finished one of the same backbone."""
    new = [trial for trial in plan.trials if not store.exists(result_file(plan.sweep.name, trial))]
    settings = [_settings(trial) for trial in new if trial.backbone.name == kept["backbone"]]
    if settings:
        changes = [_changed(kept, each) for each in settings]
        nearest = min(range(len(settings)), key=lambda index: len(changes[index]))
        key = changes[nearest][0]
        raise _altered(plan, digest, key, kept.get(key), settings[nearest].get(key))


def _changed(kept: Settings, settings: Settings) -> list[str]:
    """Return the names of the settings of a trial that differ; either may lack some that have a default."""
    names = dict.fromkeys([*settings, *(name for name in kept if name not in _NOT_OF_TRIAL)])
    return [name for name in names if settings.get(name) != kept.get(name)]


def _settings(trial: Trial) -> Settings:
    """Return the trial's settings, flattened by one level, as JSON holds them."""
    flat = {"backbone": trial.backbone.name, **trial.identity}
    flat |= {f"train.{key}": value for key, value in flat.pop("train").items()}
    settings: Settings = json.loads(json.dumps(flat))
    return settings


def _altered(plan: Plan, digest: str, key: str, before: object, now: object) -> UserError:
    return UserError(
        f"sweep {plan.sweep.name}: the finished trial {digest} was made with {key} {before!r}, "
        f"which is {now!r} now: {WAY_OUT}"
    )
