"""Students as registered MLflow models: putting them there, and drawing with them."""

import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

import workloads
from orchestrator.errors import UserError

CODE = Path(__file__).with_name("student_model.py")
CHAMPION = "champion"
NEEDS = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "sentencepiece",
    "pandas",
    "mlflow",
)
SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.string, "prompt"),
            ColSpec(DataType.string, "negative_prompt", required=False),
            ColSpec(DataType.long, "seed", required=False),
            ColSpec(DataType.double, "strength", required=False),
        ]
    ),
    outputs=Schema([ColSpec(DataType.binary, "png")]),
)


def register_student(run: str, folder: Path, name: str, example: tuple[str, str, float]) -> str:
    """Logs the pipeline `folder` as a model of `run` and registers it; returns models:/NAME/VERSION.

    `example` is a prompt, a negative prompt and a strength, kept as the model's input example.
    What happens inside a worker is stored with the model, so that it loads without this project.
    """
    prompt, negative, strength = example
    row = {"prompt": [prompt], "negative_prompt": [negative], "seed": [0], "strength": [strength]}
    with tempfile.TemporaryDirectory() as copy, mlflow.start_run(run_id=run, log_system_metrics=False):
        package = Path(copy) / "workloads"
        ignored = shutil.ignore_patterns("__pycache__", "weights", "gallery")
        shutil.copytree(Path(workloads.__file__).parent, package, ignore=ignored)
        logged = mlflow.pyfunc.log_model(
            name="student",
            python_model=str(CODE),
            artifacts={"pipeline": str(folder)},
            code_paths=[str(package)],
            signature=SIGNATURE,
            input_example=pd.DataFrame(row),
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in NEEDS],
            registered_model_name=name,
        )
    return f"models:/{name}/{logged.registered_model_version}"


def name_champion(uri: str, tags: dict[str, str]) -> None:
    """Gives the registered student models:/NAME/VERSION the alias `champion`, and its tags."""
    name, number = uri.removeprefix("models:/").split("/")
    client = MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, number)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)


def draw_with(uri: str, tracking: str, rows: Sequence[dict[str, Any]]) -> list[bytes]:
    """PNGs that the registered student `uri` draws for `rows` of its signature.

    Raises:
        UserError: no such model there.
    """
    mlflow.set_tracking_uri(tracking)
    try:
        student = mlflow.pyfunc.load_model(uri)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"model {uri} at {tracking}: cannot be loaded: {reason}") from None
    pictures: list[bytes] = list(student.predict(pd.DataFrame(list(rows)))["png"])
    return pictures
