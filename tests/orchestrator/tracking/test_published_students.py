"""Students of every family, of teachers in the published layout, as registered models."""

import io
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from PIL import Image

from orchestrator.tracking.registry import fetch_student, register_student
from tests.support.teacher_layouts import FAMILIES
from workloads.backbones.backbone import load_backbone
from workloads.images import to_image
from workloads.students.sampler import Generator
from workloads.students.student import new_student, save_student

PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a new tracking database."""
    folder = tmp_path_factory.mktemp("registry")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("published", artifact_location=str(folder / "artifacts"))
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("family", FAMILIES)
def test_registered_student_draws_what_its_folder_draws(family: str, tracking: Path, tmp_path: Path) -> None:
    FAMILIES[family](tmp_path / "teacher")
    teacher = load_backbone(str(tmp_path / "teacher"))
    save_student(teacher, new_student(teacher), tmp_path / "student")
    expected = to_image(Generator(tmp_path / "student").draw(PROMPT, [3])[0])
    client = mlflow.MlflowClient()
    run = client.create_run(client.get_experiment_by_name("published").experiment_id).info.run_id
    uri = register_student(run, tmp_path / "student", family, (PROMPT, "", 0.0), "x")
    rows = pd.DataFrame({"prompt": [PROMPT], "negative_prompt": [""], "seed": [3], "strength": [0.0]})
    png = mlflow.pyfunc.load_model(uri).predict(rows)["png"][0]
    assert Image.open(io.BytesIO(png)).tobytes() == expected.tobytes()
    fetched = fetch_student(uri, mlflow.get_tracking_uri(), tmp_path)
    assert torch.equal(
        Generator(fetched).draw(PROMPT, [3]), Generator(tmp_path / "student").draw(PROMPT, [3])
    )
