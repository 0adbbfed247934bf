"""Ids on the hub with a revision, from a cache as `huggingface_hub` lays it out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workloads.backbones.hub import split_source
from workloads.miniature import WEIGHTS

COMMITS = ("1" * 40, "2" * 40)
"""The second is the newest, to which the branch main points."""
OPEN = """
import sys
from workloads.backbones.backbone import load_backbone
from workloads.backbones.architectures import architecture_of
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.students.student import load_autoencoder, new_student, save_student
from pathlib import Path
for folder, source in zip(sys.argv[1::2], sys.argv[2::2]):
    backbone = load_backbone(source)
    load_autoencoder(source), TextEncoder(source)
    save_student(backbone, new_student(backbone), Path(folder))
    print(backbone.schedule.prediction, architecture_of(source) is not None)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a hub's cache with one repository and two commits, which differ in the scheduler."""
    root = tmp_path_factory.mktemp("hub")
    repository = root / "models--owner--teacher"
    for commit, prediction in zip(COMMITS, ("v_prediction", "epsilon"), strict=True):
        folder = repository / "snapshots" / commit
        shutil.copytree(WEIGHTS / "unet-v", folder)
        config = folder / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": prediction}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMITS[1])
    return root


def test_a_revision_chooses_the_files(cache: Path, tmp_path: Path) -> None:
    """In one process, which reads both revisions one after the other."""
    expected = {"owner/teacher": "epsilon", f"owner/teacher@{COMMITS[0]}": "v_prediction"}
    folders = {source: tmp_path / f"student-{number}" for number, source in enumerate(expected)}
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    pairs = [word for source, folder in folders.items() for word in (str(folder), source)]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *pairs], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [f"{each} True" for each in expected.values()], done.stderr
    for source, folder in folders.items():
        saved = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        assert saved["prediction_type"] == expected[source]


def test_sources_with_and_without_a_revision(tmp_path: Path) -> None:
    assert split_source("owner/name") == ("owner/name", None)
    assert split_source("owner/name@v1.0") == ("owner/name", "v1.0")
    (tmp_path / "a@b").mkdir()
    assert split_source(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)
