"""Students as registered MLflow models."""

from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

CODE = Path(__file__).with_name("student_model.py")
NEEDS = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "pandas", "mlflow")
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.long, "seed", required=False)]),
    outputs=Schema([ColSpec(DataType.binary, "png")]),
)


def register_student(run: str, folder: Path, name: str, example: str) -> str:
    """Logs the pipeline `folder` as a model of `run` and registers it; returns models:/NAME/VERSION.

    `example` is a prompt, kept as the model's input example.
    """
    with mlflow.start_run(run_id=run, log_system_metrics=False):
        logged = mlflow.pyfunc.log_model(
            name="student",
            python_model=str(CODE),
            artifacts={"pipeline": str(folder)},
            signature=SIGNATURE,
            input_example=pd.DataFrame({"prompt": [example], "seed": [0]}),
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in NEEDS],
            registered_model_name=name,
        )
    return f"models:/{name}/{logged.registered_model_version}"
