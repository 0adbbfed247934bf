"""Files with pickles or code in place of weights are refused with the reason, and nothing in them runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig

from tests.support.hpsv2_reference import SMALL, random_checkpoint
from tests.support.pickle_bomb import Planted, plant
from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import open_pipeline
from workloads.miniature import WEIGHTS
from workloads.scorers import inception
from workloads.scorers.clip import ClipAgreement
from workloads.scorers.hpsv2_score import HPSv2
from workloads.scorers.inception import InceptionFid
from workloads.students.student import load_autoencoder, save_student

FORMS = ("torch", "legacy", "pickle")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS / "unet-v", tmp_path / "teacher"))


def pickled(folder: Path, mark: Path) -> None:
    """Replace the safetensors of a component by pickle bombs, under all names that libraries try."""
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin", "model.bin"):
        plant(folder / name, mark)


@pytest.mark.parametrize("form", FORMS)
def test_pickle_bomb_runs_when_unpickled(form: str, tmp_path: Path, mark: Path) -> None:
    plant(tmp_path / "weights.pt", mark, form)
    if form == "pickle":
        np.load(tmp_path / "weights.pt", allow_pickle=True)
    else:
        torch.load(tmp_path / "weights.pt", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_hpsv2_weights(form: str, tmp_path: Path, mark: Path) -> None:
    random_checkpoint(SMALL, "v2.1", tmp_path, torch.float32)
    plant(tmp_path / "weights.pt", mark, form)
    with pytest.raises(ValueError, match=r"weights.pt does not hold weights.* a pickle .* could run code"):
        HPSv2("v2.1", str(tmp_path / "weights.pt"), SMALL).load()
    assert not mark.exists()


@pytest.mark.parametrize("form", FORMS)
def test_inception_weights(form: str, tmp_path: Path, mark: Path) -> None:
    plant(tmp_path / "net.pt", mark, form)
    np.savez(tmp_path / "real.npz", mu=np.zeros(2), sigma=np.eye(2))
    with pytest.raises(ValueError, match=r"net.pt is not https://.*, by its SHA-256"):
        InceptionFid(str(tmp_path / "net.pt"), str(tmp_path / "real.npz")).load()
    assert not mark.exists()


def test_unknown_torchscript_is_not_run(tmp_path: Path) -> None:
    """TorchScript contains no Python, but its operations run when it is called."""

    class Other(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Other()), str(tmp_path / "net.pt"))
    (tmp_path / "pictures").mkdir()
    shutil.copy(WEIGHTS.parent / "gallery/teachers.png", tmp_path / "pictures")
    with pytest.raises(ValueError, match="by its SHA-256"):
        inception.write_reference(tmp_path / "net.pt", tmp_path / "pictures", tmp_path / "real.npz")


def test_reference_of_fid(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    bomb = np.array([Planted(mark)], dtype=object)
    np.savez(tmp_path / "object.npz", features=bomb)
    plant(tmp_path / "bare.npz", mark, "pickle")
    for name in ("object.npz", "bare.npz"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read \(.* a pickle .* could run code"):
            InceptionFid(str(tmp_path / "net.pt"), str(tmp_path / name)).load()
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    np.save(tmp_path / "array.npy", np.zeros(2))
    for name in ("torn.npz", "array.npy"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            InceptionFid(str(tmp_path / "net.pt"), str(tmp_path / name)).load()
    assert not mark.exists()


def test_clip_weights(tmp_path: Path, mark: Path) -> None:
    CLIPConfig().save_pretrained(tmp_path / "clip")
    pickled(tmp_path / "clip", mark)
    with pytest.raises(ValueError, match=r"no CLIP model with safetensors .* a pickle could run code"):
        ClipAgreement(str(tmp_path / "clip")).load()
    assert not mark.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_backbone_component(part: str, teacher: Path, mark: Path) -> None:
    pickled(teacher / part, mark)
    opens: dict[str, Callable[[str], object]] = {
        "unet": load_backbone, "vae": load_autoencoder, "text_encoder": TextEncoder,
    }  # fmt: skip
    for opened in (opens[part], open_pipeline):
        with pytest.raises((ValueError, OSError), match="safetensors"):
            opened(str(teacher))
    assert not mark.exists()


def test_safety_checker_is_not_opened(teacher: Path, mark: Path) -> None:
    change(teacher / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    CLIPConfig().save_pretrained(teacher / "safety_checker")
    pickled(teacher / "safety_checker", mark)
    assert open_pipeline(str(teacher)).safety_checker is None
    assert not mark.exists()


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_index_that_names_a_pickle(part: str, teacher: Path, mark: Path) -> None:
    weights = teacher / f"{part}.safetensors"
    weights.unlink()
    plant(weights.with_name("bomb.bin"), mark)
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "bomb.bin"}}
    weights.with_name(f"{weights.name}.index.json").write_text(json.dumps(index))
    for opened in (open_pipeline, load_backbone if part.startswith("unet") else TextEncoder):
        with pytest.raises(ValueError, match=r"index\.json has no weight_map to safetensors files"):
            opened(str(teacher))
    assert not mark.exists()


@pytest.mark.parametrize("place", ["pipeline", "component", "community"])
def test_custom_code_is_not_run(place: str, teacher: Path, mark: Path) -> None:
    code = f"import os\nos.mkdir({str(mark)!r})\nclass Mine: pass\n"
    if place == "pipeline":
        change(teacher / "model_index.json", _class_name=["mine", "Mine"])
        (teacher / "mine.py").write_text(code)
    elif place == "component":
        change(teacher / "model_index.json", unet=["mine", "Mine"])
        (teacher / "unet/mine.py").write_text(code)
    else:
        # The file that diffusers opens when no pipeline is named.
        (teacher / "None.py").write_text(code)
    if place == "pipeline":
        with pytest.raises(ValueError, match=r"pipeline class .* is not supported"):
            open_pipeline(str(teacher))
    else:
        open_pipeline(str(teacher))  # of the supported classes, whatever the folder names
    assert not mark.exists()


def test_student_folder_copies_no_pickles_or_code(teacher: Path, tmp_path: Path, mark: Path) -> None:
    plant(teacher / "text_encoder/pytorch_model.bin", mark)
    (teacher / "vae/mine.py").write_text("")
    backbone = load_backbone(str(teacher))
    save_student(backbone, backbone.network, tmp_path / "student")
    files = {path.suffix for path in (tmp_path / "student").rglob("*") if path.is_file()}
    assert files <= {".safetensors", ".json", ".txt", ".md"} and ".safetensors" in files


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
