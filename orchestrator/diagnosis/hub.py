"""Check of the hub: whether this machine's token may download the models of the sweep."""

import os
from collections.abc import Iterator

from huggingface_hub import HfApi, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, one_line
from orchestrator.planning.plan import Plan
from workloads.backbones.loras.files import STANDARD, is_hub_path, split_path
from workloads.scorers.catalogue import CLIP_MODEL
from workloads.scorers.hpsv2_package import REPOSITORY

INDEX_FILES = ("model_index.json", "config.json", *STANDARD, "HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt")
"""Files of which the hub's cache has one if it has the model."""


def check_hub(subject: Subject) -> Iterator[Finding]:
    """Ask the hub for each model of the sweep with this machine's token; download nothing."""
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    models = hub_models(subject.plan) if subject.plan else []
    if not models:
        wanted = "the sweep takes no model from the hub" if subject.plan else "no sweep is given"
        yield ok(
            f"{wanted}; {'a token is set' if get_token() else 'no token is set, so public models alone'}"
        )
    for model in models:
        yield _look_at(api, model)


def hub_models(plan: Plan) -> list[str]:
    """Return the ids on the hub that a plan names: teachers, LoRAs, students' starts, CLIP, scorers."""
    names = [trial.source for trial in plan.trials]
    names += [trial.train.start_from for trial in plan.trials if trial.train.start_from]
    names += [trial.train.clip_model for trial in plan.trials if trial.train.clip_model]
    scorers = [*plan.sweep.evaluate.scorers, *(plan.infer.infer.scorers if plan.infer else ())]
    published = {"clip": CLIP_MODEL, "hpsv2": REPOSITORY}
    names += [each.weights or published[each.name] for each in scorers if each.name in published]
    loras = [lora.path for trial in plan.trials for lora in trial.loras if is_hub_path(lora.path)]
    return [*(name for name in dict.fromkeys(names) if is_hub_id(name)), *dict.fromkeys(loras)]


def is_hub_id(name: str) -> bool:
    """Return true for OWNER/NAME that is neither a path that exists nor a shipped miniature."""
    return name.count("/") == 1 and not name.startswith(("miniature/", ".", "/")) and not os.path.exists(name)


def _look_at(api: HfApi, model: str) -> Finding:
    name, revision, _ = split_path(model)
    address = f"{api.endpoint}/{name}"
    token = get_token()
    try:
        api.auth_check(name)
        if revision is not None:
            api.model_info(name, revision=revision)
    except RevisionNotFoundError:
        return fail(f"{model}: the hub has no such revision: take a commit of {address}/commits/main")
    except GatedRepoError:
        return fail(
            f"{model}: its licence is not accepted: accept it at {address} with the token's account, and set "
            f"HF_TOKEN (a fine-grained token needs the right to read gated repositories)"
        )
    except DisabledRepoError:
        return fail(f"{model}: the hub has disabled it: name a copy of it in the sweep file")
    except RepositoryNotFoundError:
        why = "the hub does not know it" if token else "the hub does not show it without a token"
        return fail(
            f"{model}: {why}: it was deleted or renamed, or is private: look at {address}, and name a "
            f"copy of it, or set HF_TOKEN"
        )
    except Exception as error:  # of the HTTP library, which changes between versions of the hub's client
        return _without_hub(model, error)
    return ok(f"{model}: may be downloaded")


def _without_hub(model: str, error: Exception) -> Finding:
    """Return the finding for a model about which the hub could not be asked, or did not answer well."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
        return fail(
            f"{model}: the hub refuses the token: set HF_TOKEN to one of huggingface.co/settings/tokens"
        )
    name, revision, file = split_path(model)
    files = INDEX_FILES if file is None else (file,)
    found = (try_to_load_from_cache(name, each, revision=revision) for each in files)
    cached = any(isinstance(file, str) for file in found)
    reason = (
        "the hub is turned off (HF_HUB_OFFLINE)"
        if isinstance(error, OfflineModeIsEnabled)
        else (f"the hub was not reached ({one_line(error)[:120]})")
    )
    if cached:
        return ok(f"{model}: in the cache; {reason}")
    command = f"hf download {name}" + ("" if file is None else f" {file}")
    command += "" if revision is None else f" --revision {revision}"
    return fail(f"{model}: not in the cache, and {reason}: run `{command}` where the hub is reached")
