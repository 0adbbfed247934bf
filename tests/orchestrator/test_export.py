"""The command that exports a registered student: results, upload, and bad input."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import mlflow
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from orchestrator.export import main
from orchestrator.tracking.registry import name_champion, register_student
from tests.support.clean_process import run_clean
from tests.support.fake_hub import fake_hub
from tests.support.small_published import LAYOUTS
from tests.support.toy_students import adapter_student, every_weight, whole_student
from workloads.miniature import WEIGHTS
from workloads.students.origin import ADAPTERS, FILE, Origin, save_origin
from workloads.students.sampler import Generator

PROMPT = "a large red circle"
URI = "models:/toy@champion"
CARD = """---
base_model: miniature/unet-epsilon
base_model_relation: finetune
license: apache-2.0
---
# toy

    DiffusionPipeline.from_pretrained("FOLDER")
"""
USE_ADAPTER = """
import mlflow
from diffusers import DDIMScheduler
uri, folder = sys.argv[1:3]
mlflow.set_tracking_uri(uri)
adapter = mlflow.diffusers.load_model("models:/toy@champion", dst_path=folder)
pipeline = adapter.load_pipeline(torch_dtype=torch.float32, device="cpu")
pipeline.scheduler = DDIMScheduler.from_pretrained(adapter.adapter_path, subfolder="scheduler")
call = {"num_inference_steps": 1, "guidance_scale": 1.0, "height": 16, "width": 16, "output_type": "pt"}
picture = pipeline(sys.argv[3], generator=torch.Generator().manual_seed(0), **call).images
torch.save(picture.float() * 2 - 1, "flavor.pt")
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of students: an adapter student and a whole one of a miniature, and one without LoRAs."""
    root = tmp_path_factory.mktemp("students")
    teacher = WEIGHTS / "unet-epsilon"
    adapter_student(teacher, root / "adapter", ("to_q", "to_v"))
    whole_student(teacher, root / "whole", every_weight)
    for name in ("adapter", "whole"):
        save_origin(root / name, Origin("miniature/unet-epsilon"))
        (root / name / "README.md").write_text(CARD)
        (root / name / "samples.png").write_bytes(b"\x89PNG")
    shutil.copytree(WEIGHTS / "pixart", root / "pixart")
    shutil.copytree(WEIGHTS / "unet-epsilon", root / "unchanged")
    save_origin(root / "unchanged", Origin("miniature/unet-epsilon"))
    shutil.copytree(root / "whole", root / "unknown", ignore=shutil.ignore_patterns(FILE, "README.md"))
    return root


@pytest.fixture
def fetched(students: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The registry hands out the student of a model's name."""

    def fetch(uri: str, tracking: str, into: Path) -> Path:
        folder = into / "student"
        shutil.copytree(students / uri.removeprefix("models:/").split("@")[0], folder)
        return folder

    monkeypatch.setattr("orchestrator.tracking.registry.fetch_student", fetch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///unused.db")
    return students


def export(model: str, name: str, out: Path, *more: str) -> int:
    uri = model if "/" in model else f"models:/{model}@champion"
    return main(["--model", uri, "--format", name, "--out", str(out), *more])


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        found: dict[str, str] = opened.metadata()
    return found


@pytest.fixture(scope="module")
def registered(students: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of an MLflow in which the adapter student is the champion `toy`."""
    folder = tmp_path_factory.mktemp("registry")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("toy", artifact_location=str(folder / "artifacts"))
    run = mlflow.MlflowClient().create_run(experiment).info.run_id
    shutil.copytree(students / "adapter", folder / "student")
    name_champion(register_student(run, folder / "student", "toy", (PROMPT, "red", 1.0), "x"), {})
    yield f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(None)


def test_an_adapter_student_goes_through_mlflow_into_stock_diffusers(
    registered: str, students: Path, tmp_path: Path
) -> None:
    """The file, MLflow's own flavor for LoRAs, and the model with negative prompts are one student."""
    out = tmp_path / "new/toy.safetensors"
    assert export(URI, "lora", out, "--tracking-uri", registered) == 0
    stored, written = load_file(students / "adapter" / ADAPTERS), load_file(out)
    assert stored.keys() == written.keys() and all(torch.equal(stored[key], written[key]) for key in stored)
    run_clean(USE_ADAPTER, tmp_path, registered, str(tmp_path), PROMPT)
    expected = Generator(students / "adapter").draw(PROMPT, [0])
    torch.testing.assert_close(torch.load(tmp_path / "flavor.pt"), expected, rtol=0, atol=2e-3)
    flavors = mlflow.models.get_model_info(URI).flavors
    assert flavors["diffusers"]["base_model"] == str(WEIGHTS / "unet-epsilon")
    rows = pd.DataFrame({"prompt": [PROMPT] * 2, "negative_prompt": ["", "red"], "strength": [0.0, 2.0]})
    pictures = mlflow.pyfunc.load_model(URI).predict(rows)["png"]
    assert pictures[0] != pictures[1], "negative prompts work as before"


def test_a_whole_student_says_how_much_of_it_a_lora_holds(
    fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("whole", "kohya", tmp_path / "toy", "--rank", "4") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "toy")
    assert any(line.startswith("unet: ") and "% of the change of linear" in line for line in printed)
    (told,) = [line for line in printed if line.startswith("LoRA of rank 4")]
    assert "biases, norms" in told
    facts = metadata(tmp_path / "toy/whole.safetensors")
    assert f"holds {float(facts['kept_energy']):.2%} of the change" in told
    assert (facts["rank"], facts["base_model"]) == ("4", "miniature/unet-epsilon")
    assert json.loads(facts["scheduler"])["_class_name"] == "DDIMScheduler"
    assert facts["modelspec.architecture"] == "stable-diffusion-v1/lora"
    files = {path.relative_to(tmp_path / "toy").as_posix() for path in (tmp_path / "toy").rglob("*")}
    assert files == {
        "README.md", "samples.png", FILE, "scheduler", "scheduler/scheduler_config.json", "whole.safetensors",
    }  # fmt: skip
    card = (tmp_path / "toy/README.md").read_text()
    assert "base_model_relation: adapter" in card and "load_lora_weights" in card and "FOLDER" not in card


def test_a_single_file_says_how_to_draw_with_it(
    fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "toy.safetensors"
    assert export("whole", "single-file", out) == 0
    told = "1 step, CFG scale 1, sampler Euler, sigmas 14.61, 0 (timesteps 999;"
    assert told in capsys.readouterr().out and told in metadata(out)["modelspec.usage_hint"]
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_an_adapter_may_be_exported_at_a_lower_rank(fetched: Path, tmp_path: Path) -> None:
    assert export("adapter", "lora", tmp_path / "one.safetensors", "--rank", "1") == 0
    found = load_file(tmp_path / "one.safetensors")
    assert {len(value) for key, value in found.items() if ".lora_A." in key} == {1}
    assert 0 < float(metadata(tmp_path / "one.safetensors")["kept_energy"]) < 1


NOWHERE = ("--base", "nobody/nothing")
BAD: list[tuple[str, str, str, tuple[str, ...], str]] = [
    ("no-uri", "/folder", "lora", (), r"--model /folder: write models:/NAME@champion"),
    ("lora-of-pixart", "pixart", "lora", (), r"Pipeline has no format lora \(.*\): choose diffusers"),
    ("kohya-of-pixart", "pixart", "kohya", (), r"PixArtAlphaPipeline has no format kohya"),
    ("file-of-pixart", "pixart", "single-file", (), r"has no format single-file .*: choose diffusers"),
    ("rank-of-folder", "whole", "diffusers", ("--rank", "4"), r"--rank: format diffusers is not relative to"),
    ("rank-of-file", "whole", "single-file", ("--rank", "4"), r"leave --rank out, or choose format"),
    ("base-of-folder", "whole", "diffusers", ("--base", "x"), r"--base: format diffusers is not relative to"),
    ("rank-too-large", "whole", "lora", ("--rank", "5000"), r"rank 5000 is above 1\d+, the largest"),
    ("adapter-rank", "adapter", "lora", ("--rank", "5000"), r"rank 5000 is above 3, the largest"),
    ("unchanged", "unchanged", "lora", (), r"no linear or convolution layer of the student differs"),
    ("no-base-known", "unknown", "kohya", (), r"does not say what its base model is: give --base SOURCE"),
    ("base-nowhere", "whole", "lora", NOWHERE, r"base model 'nobody/nothing' cannot be opened: .*by --base"),
    ("base-of-others", "whole", "lora", ("--base", "miniature/pixart"), r"is no StableDiffusion.*--base"),
    ("base-with-others", "whole", "lora", ("--base", "{toy}"), r"its unet has other layers.*--base SOURCE"),
    ("push-no-owner", "whole", "lora", ("--push", "toy"), r"--push: 'toy' has no owner: write ORG/NAME"),
    ("push-no-name", "whole", "lora", ("--push", "a/b c"), r"--push: 'a/b c' is no name of a repository"),
    ("push-no-token", "whole", "lora", ("--push", "me/toy"), r"--push: no token to upload me/toy with: run"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name", "more", "pattern"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_input_is_one_line(
    model: str,
    name: str,
    more: tuple[str, ...],
    pattern: str,
    fetched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workloads.export.push.get_token", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    if "{toy}" in more:
        LAYOUTS["sd15"](tmp_path / "toy")
    out = tmp_path / "out"
    given = [each.format(toy=tmp_path / "toy") for each in more]
    capsys.readouterr()
    assert export(model, name, out, *given) == 2
    _one_line(capsys, pattern)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def _one_line(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    import re

    last = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(last) == 1 and re.search(pattern, last[0]), last


@pytest.mark.parametrize(
    ("out", "name", "pattern"),
    [
        ("there", "lora", r"there: exists already: name a new file or folder"),
        ("file/out", "lora", r"file/out: cannot be written: .*/file is a file"),
        ("out.safetensors", "diffusers", r"format diffusers is a folder: leave \.safetensors out"),
    ],
)
def test_places_that_cannot_be_written_are_refused(
    out: str, name: str, pattern: str, fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert export("whole", name, tmp_path / out) == 2
    _one_line(capsys, pattern)


def test_an_unknown_model_is_one_line(
    registered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export("nobody", "lora", tmp_path / "out", "--tracking-uri", registered) == 2
    _one_line(capsys, r"models:/nobody@champion at .*cannot be fetched")


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--rank", "0", "0 is below 1"),
        ("--rank", "4.5", "not a whole number"),
        ("--format", "onnx", "'diffusers'"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    option: str, value: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export("whole", "lora", tmp_path / "out", option, value)
    shown = capsys.readouterr().err
    assert f"argument {option}: " in shown and reason in shown


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub of this test's own, with a token that may write to it."""
    with fake_hub() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", served.token)
        yield served


def test_an_upload_has_the_card(
    hub: Any, fetched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "toy.safetensors"
    assert export("adapter", "lora", out, "--push", "me/toy") == 0
    assert "uploaded: http://127.0.0.1" in capsys.readouterr().out
    assert hub.repositories == {"me/toy"}
    assert {
        "me/toy/README.md",
        f"me/toy/{ADAPTERS}",
        "me/toy/scheduler/scheduler_config.json",
    } <= hub.files.keys()
    assert hub.files[f"me/toy/{ADAPTERS}"] == out.read_bytes()
    card = hub.files["me/toy/README.md"].decode()
    assert 'pipeline.load_lora_weights("me/toy"' in card and card.startswith("---\nbase_model:")


def test_a_hub_that_refuses_is_one_line_and_the_result_is_kept(
    hub: Any,
    fetched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_reader")
    out = tmp_path / "toy.safetensors"
    assert export("adapter", "kohya", out, "--push", "me/toy") == 2
    shown = capsys.readouterr().err
    assert "error: --push: me/toy cannot be uploaded: " in shown and "hf_of_a_reader" not in shown
    assert out.exists() and not hub.files
