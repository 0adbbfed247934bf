"""The same command goes on; a changed file may add trials, but not alter those that are finished.

A trial is its backbone, settings and prompts (`Trial.digest`); its result also depends on how it
was looked at. Results whose trial, prompts or `evaluate` section are no longer those of the file
would be compared with what they cannot be compared with, so that is said, and stops the launch.
"""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.planning.plan import Plan, Trial
from orchestrator.results.ledger import result_file

WAY_OUT = "put it back, or give this sweep a name of its own (--set name=...)"


def identity(plan: Plan, trial: Trial, prompts: PromptSet) -> dict[str, Any]:
    """What is kept with a result, to compare with a later file; as JSON has it."""
    evaluate = plan.sweep.evaluate.model_dump(mode="json", exclude={"evaluations"})
    return {**_settings(trial), "evaluate": evaluate, "prompts.digest": prompts.digest}


def check_resumable(plan: Plan, store: Store, prompts: PromptSet | None) -> None:
    """Compares the file with the results in the storage, and their prompts, if they are known yet.

    Raises:
        UserError: a finished trial, how it was looked at, or what it was trained on has changed.
    """
    planned = {trial.digest: trial for trial in plan.trials}
    for name in store.files(f"{plan.sweep.name}/results"):
        kept = _kept_identity(store, name)
        digest = name.rsplit("/", 1)[-1].removesuffix(".json")
        if digest in planned:
            _compare(digest, kept, plan, prompts)
        else:
            _check_not_replaced(digest, kept, plan, store)


def _kept_identity(store: Store, name: str) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = store.read_json(name)["identity"]
        return kept
    except (ValueError, KeyError, TypeError):
        reason = "is torn, or of an earlier version: delete it and its trial is trained again"
        raise UserError(f"{store.uri(name)}: {reason}; or {WAY_OUT}") from None


def _compare(digest: str, kept: Mapping[str, Any], plan: Plan, prompts: PromptSet | None) -> None:
    now = plan.sweep.evaluate.model_dump(mode="json", exclude={"evaluations"})
    for key, value in now.items():
        if kept["evaluate"][key] != value:
            raise _altered(plan, digest, f"evaluate.{key}", kept["evaluate"][key], value)
    if prompts is not None and prompts.digest != kept["prompts.digest"]:
        raise _altered(plan, digest, "what prompts.source holds", kept["prompts.digest"], prompts.digest)


def _check_not_replaced(digest: str, kept: Mapping[str, Any], plan: Plan, store: Store) -> None:
    """A finished trial that is not in the file any more must not have made way for a new one."""
    new = [trial for trial in plan.trials if not store.exists(result_file(plan.sweep.name, trial))]
    settings = [_settings(trial) for trial in new if trial.backbone.name == kept["backbone"]]
    if settings:
        changes = [[key for key in each if each[key] != kept.get(key)] for each in settings]
        nearest = min(range(len(settings)), key=lambda index: len(changes[index]))
        key = changes[nearest][0]
        raise _altered(plan, digest, key, kept.get(key), settings[nearest][key])


def _settings(trial: Trial) -> dict[str, Any]:
    """The trial's own settings, one level deep, as JSON has them."""
    flat = {"backbone": trial.backbone.name, **trial.identity}
    flat |= {f"train.{key}": value for key, value in flat.pop("train").items()}
    settings: dict[str, Any] = json.loads(json.dumps(flat))
    return settings


def _altered(plan: Plan, digest: str, key: str, before: Any, now: Any) -> UserError:
    return UserError(
        f"sweep {plan.sweep.name}: the finished trial {digest} was made with {key} {before!r}, "
        f"which is {now!r} now: {WAY_OUT}"
    )
