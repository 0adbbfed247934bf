"""Students as registered MLflow models: registration, the champion alias, download."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

import workloads
from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.tracking.relocation import check_place
from workloads.backbones.families import family_of
from workloads.backbones.hub import split_source
from workloads.miniature import teacher_folder
from workloads.students.origin import ADAPTERS, load_origin

CODE = Path(__file__).with_name("pyfunc_model.py")
CHAMPION = "champion"
ADAPTER_FLAVOR = "diffusers"
"""MLflow's flavor for a LoRA of a base model."""
IDENTITY_TAG = "identity"
"""Tag of a version: digest of the second search that its defaults come from."""
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
            # Given types, MLflow refuses an empty column, seeds missing in some rows, and a strength of 2.
            ColSpec(AnyType(), "negative_prompt", required=False),
            ColSpec(AnyType(), "seed", required=False),
            ColSpec(AnyType(), "strength", required=False),
            ColSpec(AnyType(), "guidance_scale", required=False),
        ]
    ),
    outputs=Schema([ColSpec(DataType.binary, "png")]),
)


def register_student(
    run: str, folder: Path, name: str, example: tuple[str, str, float], identity: str
) -> str:
    """Log a student as a model of its run and register it; return models:/NAME/VERSION.

    A copy of `workloads` is stored with the model, so that it loads where this project is not installed.

    Args:
        run: the trial's MLflow run.
        folder: the student's pipeline folder.
        name: name of the registered model.
        example: prompt, negative prompt and strength of the model's input example.
        identity: digest of the second search; a version with the same one is returned as it is.
    """
    client = MlflowClient()
    for known in client.search_model_versions(f"run_id = '{run}'"):
        if known.name == name and known.tags.get(IDENTITY_TAG) == identity:
            return f"models:/{name}/{known.version}"
    prompt, negative, strength = example
    row = {"prompt": [prompt], "negative_prompt": [negative], "seed": [0], "strength": [strength]}
    with tempfile.TemporaryDirectory() as copy, mlflow.start_run(run_id=run, log_system_metrics=False):
        package = Path(copy) / "workloads"
        ignored = shutil.ignore_patterns("__pycache__", "weights", "gallery")
        shutil.copytree(Path(workloads.__file__).parent, package, ignore=ignored)
        logged = Model.log(
            artifact_path=None,
            name="student",
            flavor=_StudentFlavors(_adapter(folder)),
            python_model=str(CODE),
            artifacts={"pipeline": str(folder)},
            code_paths=[str(package)],
            signature=SIGNATURE,
            input_example=pd.DataFrame(row),
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in NEEDS],
        )
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    # Registered separately from logging, so that the version has its tag from the start.
    tags = {IDENTITY_TAG: identity}
    made = client.create_model_version(name, logged.model_uri, run, tags, model_id=logged.model_id)
    return f"models:/{name}/{made.version}"


class _StudentFlavors:
    """The flavors of a student's model: MLflow's `python_function`, and its `diffusers` for an adapter.

    MLflow calls `save_model` as it does that of its own flavors' modules.
    """

    def __init__(self, adapter: dict[str, str]) -> None:
        """Add the flavor `diffusers` with the entries `adapter`, unless there are none."""
        self._adapter = adapter

    def save_model(self, path: str, mlflow_model: Model, **options: Any) -> None:
        """Write the model to the folder `path`; `options` are those of `mlflow.pyfunc.save_model`."""
        if self._adapter:
            mlflow_model.add_flavor(ADAPTER_FLAVOR, **self._adapter)
        mlflow.pyfunc.save_model(path=path, mlflow_model=mlflow_model, **options)


def _adapter(folder: Path) -> dict[str, str]:
    """Return the entries of MLflow's flavor for a LoRA: empty if the student is none of its base model.

    `mlflow.diffusers.load_model` reads them. The flavor has no place for a scheduler, which is why the
    adapter's own folder has it: see the model card.
    """
    origin = load_origin(folder)
    if origin is None or not origin.adapters_are_of_base or not (folder / ADAPTERS).exists():
        return {}
    if not family_of(str(folder)).loads_lora:
        return {}
    base, revision = split_source(teacher_folder(origin.base))
    entries = {"base_model": base, "adapter_type": "lora", "adapter_weights": f"artifacts/{folder.name}"}
    return entries | ({"base_model_revision": revision} if revision else {})


def registered_students(name: str) -> set[str]:
    """Return the URIs, models:/NAME/VERSION, of all versions of the registered model `name`."""
    client, versions, token = MlflowClient(), set(), None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        versions |= {f"models:/{name}/{each.version}" for each in page}
        token = page.token
        if not token:
            return versions


def name_champion(uri: str, tags: dict[str, str]) -> None:
    """Give the registered student `uri` (models:/NAME/VERSION) the alias `champion`, and tags."""
    name, number = uri.removeprefix("models:/").split("/")
    client = MlflowClient()
    client.set_registered_model_alias(name, CHAMPION, number)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)


def fetch_student(uri: str, tracking: str, into: Path) -> Path:
    """Download the registered student `uri` to a folder below `into`; return its pipeline folder.

    The code that is stored with the model is not run.

    Raises:
        UserError: the model does not exist, its storage was moved, or it is not a student of this project.
    """
    mlflow.set_tracking_uri(tracking)
    try:
        check_place(tracking, MlflowClient())
        model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(into)))
    except (MlflowException, OSError) as error:
        reason = redact(str(error)).splitlines()[0][:200]
        raise UserError(f"model {uri} at {redact(tracking)}: cannot be fetched: {reason}") from None
    try:
        description = yaml.safe_load((model / "MLmodel").read_text())
        pipeline: Path = model / description["flavors"]["python_function"]["artifacts"]["pipeline"]["path"]
    except FileNotFoundError:
        raise UserError(
            f"model {uri} at {redact(tracking)}: its files are missing in MLflow's artifacts"
        ) from None
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise UserError(f"model {uri}: is not a student of this project: {error!r}") from None
    inside = model.resolve()
    if not all(path.resolve().is_relative_to(inside) for path in (pipeline, *model.rglob("*"))):
        raise UserError(f"model {uri}: names files outside of its own folder and is not opened")
    return pipeline
