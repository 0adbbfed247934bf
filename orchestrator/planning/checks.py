"""Checks of a sweep's size and of its local files before anything is started."""

import os
from collections.abc import Sequence

from orchestrator.common.errors import UserError
from orchestrator.config.schema import Prompts
from orchestrator.config.sweep_file import SweepFile
from orchestrator.config.yaml_source import KeyPath
from orchestrator.data.miniature_prompts import caption_count

MAX_TRIALS, MAX_INFERENCE_TRIALS = 10_000, 100_000


def check_sizes(file: SweepFile, trainings: Sequence[int], arms: int) -> None:
    """Refuse a sweep with more trials than can be intended.

    Args:
        trainings: number of trainings of each backbone and arm.
        arms: strengths at which each student is sampled.

    Raises:
        UserError: names the number of trials and the limit.
    """
    total = sum(trainings)
    if total > MAX_TRIALS:
        message = (
            f"{total:,} trainings, more than {MAX_TRIALS:,}: sweep fewer values, or lower search.samples"
        )
        raise file.error((), message)
    if total * arms > MAX_INFERENCE_TRIALS:
        message = f"{total * arms:,} inference trials, more than {MAX_INFERENCE_TRIALS:,}: try fewer arms"
        raise file.error(("infer",), message)


def check_prompts(file: SweepFile) -> None:
    """Check that local prompt files exist, and that `miniature:N` names a valid number.

    Raises:
        UserError: a source names no prompts.
    """
    for key in ("prompts", "negative_prompts"):
        prompts: Prompts | None = getattr(file.sweep, key)
        if prompts is not None:
            _check_source(file, (key, "source"), prompts.source)


def _check_source(file: SweepFile, key_path: KeyPath, source: str) -> None:
    try:
        if caption_count(source) is None and "://" not in source:
            _check_files(source)
    except UserError as error:
        raise file.error(key_path, str(error).removeprefix("prompts.source ")) from None


def _check_files(source: str) -> None:
    if not os.path.exists(os.path.expanduser(source)):
        raise UserError(f"{source}: no such file or folder")
    # Imports pyarrow, which takes a while; other mistakes need not wait for it.
    from orchestrator.data.prompt_files import list_files

    list_files(source)


def check_weights(file: SweepFile) -> None:
    """Check that the files of scorers exist; clip's weights may be the id of a model on the hub.

    Raises:
        UserError: a file does not exist.
    """
    sections = {"evaluate": file.sweep.evaluate.scorers}
    if file.sweep.infer is not None:
        sections["infer"] = file.sweep.infer.scorers
    for section, scorers in sections.items():
        for index, scorer in enumerate(scorers):
            weights = None if scorer.name == "clip" else scorer.weights
            for option, path in {"weights": weights, "reference": scorer.reference}.items():
                if path is not None and not os.path.isfile(path):
                    raise file.error((section, "scorers", index, option), f"{path}: no such file")
