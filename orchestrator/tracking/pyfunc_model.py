"""The MLflow model of a registered student; needs torch, diffusers and transformers alone.

MLflow stores this file with the model ("models from code"), and beside it a copy of `workloads`, which draws.
So a student can be loaded where this project is not installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class Student(PythonModel):  # type: ignore[misc]
    """Maps a table of `prompt`, optionally `negative_prompt`, `seed` and `strength`, to a table of `png`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the pipeline folder, on a GPU if there is one."""
        from workloads.students.sampler import Generator

        self._generator = Generator(Path(context.artifacts["pipeline"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Draw each row in one network call; the same seed gives the same picture."""
        return pd.DataFrame({"png": [self._draw(row) for row in model_input.to_dict("records")]})

    def _draw(self, row: dict[str, Any]) -> bytes:
        given = {key: value for key, value in row.items() if not pd.isna(value)}
        return self._generator.png(
            str(given["prompt"]),
            int(given.get("seed", 0)),
            str(given.get("negative_prompt", "")),
            float(given["strength"]) if "strength" in given else None,
        )


mlflow.models.set_model(Student())
