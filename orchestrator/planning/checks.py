"""What can be told of a sweep's size and of its local files before anything is started."""

import os
from collections.abc import Sequence

from orchestrator.common.errors import UserError
from orchestrator.config.schema import Prompts
from orchestrator.config.sweep_file import SweepFile
from orchestrator.config.yaml_source import KeyPath

MOST_TRIALS, MOST_SMALL_TRIALS = 10_000, 100_000
MINIATURE_PROMPTS = "miniature:"
MOST_MINIATURE_PROMPTS = 10_000_000


def check_sizes(file: SweepFile, trainings: Sequence[int], arms: int) -> None:
    """Refuses a sweep of more trials than anybody means.

    Args:
        trainings: of each backbone.
        arms: strengths at which each student is drawn.

    Raises:
        UserError: with the number.
    """
    total = sum(trainings)
    if total > MOST_TRIALS:
        message = (
            f"{total:,} trainings, more than {MOST_TRIALS:,}: sweep fewer values, or lower search.samples"
        )
        raise file.error((), message)
    if total * arms > MOST_SMALL_TRIALS:
        message = f"{total * arms:,} small trials, more than {MOST_SMALL_TRIALS:,}: try fewer strengths"
        raise file.error(("infer", "attention_guidance"), message)


def check_prompts(file: SweepFile) -> None:
    """Looks for the prompt files, if they are local ones, and reads what `miniature:N` asks for.

    Raises:
        UserError: there are none.
    """
    for key in ("prompts", "negative_prompts"):
        prompts: Prompts | None = getattr(file.sweep, key)
        if prompts is not None:
            _check_source(file, (key, "source"), prompts.source)


def _check_source(file: SweepFile, key_path: KeyPath, source: str) -> None:
    if source.startswith(MINIATURE_PROMPTS):
        count = source.removeprefix(MINIATURE_PROMPTS)
        if not (count.isdecimal() and count.isascii() and 0 < _number(count) <= MOST_MINIATURE_PROMPTS):
            message = f"{source}: write miniature:N with N from 1 to {MOST_MINIATURE_PROMPTS:,}"
            raise file.error(key_path, message)
    elif "://" not in source:
        if not os.path.exists(source):
            raise file.error(key_path, f"{source}: no such file or folder")
        from orchestrator.data.prompt_files import (
            list_files,  # pyarrow, which other mistakes need not wait for
        )

        try:
            list_files(source)
        except UserError as error:
            raise file.error(key_path, str(error).removeprefix("prompts.source ")) from None


def _number(digits: str) -> int:
    """Its first digits are enough, and Python refuses thousands of them."""
    return int(digits[:20])


def check_weights(file: SweepFile) -> None:
    """Looks for the files that scorers read; clip's weights may be the id of a model on the hub.

    Raises:
        UserError: there is no such file.
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
