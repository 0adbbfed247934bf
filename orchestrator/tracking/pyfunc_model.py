"""The MLflow model of a registered student; needs torch, diffusers and transformers alone.

MLflow stores this file with the model ("models from code"), and beside it a copy of `workloads`, which draws.
So a student can be loaded where this project is not installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

LARGEST_SEED = 2**63 - 1


class Student(PythonModel):  # type: ignore[misc]
    """Maps a table of prompts to a table of pictures in the column `png`.

    Columns are `prompt` and, if wanted, `negative_prompt`, `seed`, `strength`, and `guidance_scale` for a
    student that reads one.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Open the pipeline folder, on a GPU if there is one."""
        from workloads.students.sampler import Generator

        self._generator = Generator(Path(context.artifacts["pipeline"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Draw each row in the student's number of network calls; the same seed gives the same picture.

        A missing negative prompt, seed, strength or guidance scale stands for none, 0 and the student's own.
        A cell with a list stands for as many rows. The result has the index of the input's rows.

        Raises:
            ValueError: a row has no prompt, or a value that cannot be used; nothing is drawn then.
        """
        rows = _one_text_a_row(model_input)
        scales = self._generator.scales
        requests = [_request(number, row, scales) for number, row in enumerate(rows.to_dict("records"))]
        return pd.DataFrame({"png": [self._generator.png(*request) for request in requests]}, rows.index)


def _one_text_a_row(table: pd.DataFrame) -> pd.DataFrame:
    """Split rows whose cells are lists, as MLflow makes of {"prompt": ["a circle", "a square"]}."""
    if not table.map(lambda cell: isinstance(cell, list | np.ndarray)).any(axis=None):
        return table
    return table.explode(list(table.columns), ignore_index=True)


def _request(
    number: int, row: dict[str, Any], scales: Any
) -> tuple[str, int, str, float | None, float | None]:
    """Return prompt, seed, negative prompt, strength and scale of a row, checked; `number` counts from 0."""
    from workloads.settings.train import AttentionGuidanceSettings

    given = {key: value for key, value in row.items() if not pd.isna(value)}
    seed, strength, scale = given.get("seed", 0), given.get("strength"), given.get("guidance_scale")
    try:
        prompt, negative = _text(given, "prompt"), _text({"negative_prompt": ""} | given, "negative_prompt")
        seed = _number(seed, "seed")
        if not 0 <= seed <= LARGEST_SEED or seed != int(seed):
            raise ValueError(f"seed is {seed}: give a whole number from 0 to {LARGEST_SEED}")
        if strength is not None:
            strength = AttentionGuidanceSettings("nasa", float(_number(strength, "strength"))).strength
        if scale is not None:
            scale = _scale(float(_number(scale, "guidance_scale")), scales)
    except ValueError as error:
        raise ValueError(f"row {number} (the first is 0): {error}") from None
    return prompt, int(seed), negative, strength, scale


def _scale(scale: float, scales: Any) -> float:
    if scales is None:
        raise ValueError("the student does not read guidance scales: leave guidance_scale out")
    checked: float = scales.check(scale)
    return checked


def _number(value: Any, name: str) -> int | float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        raise ValueError(f"{name} is {value!r}: give a number")
    return value.item() if isinstance(value, np.number) else value


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'missing' if value is None else repr(value)[:80]}: give a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} {ascii(value)[:80]} holds bytes that are not UTF-8")
    return value


mlflow.models.set_model(Student())
