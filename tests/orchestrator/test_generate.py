"""Drawing with a registered student: its weights are taken from the registry, its code is not run."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from orchestrator.common.errors import UserError
from orchestrator.generate import LARGEST_SEED, _file_name, main
from orchestrator.tracking.registry import fetch_student, name_champion, register_student
from tests.support.pickle_bomb import plant
from workloads.miniature import WEIGHTS

URI = "models:/toy-pixart@champion"


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a tracking database in which the miniature teacher is a registered student."""
    folder = tmp_path_factory.mktemp("registry")
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.create_experiment("toy", artifact_location=str(folder / "artifacts"))
    run = mlflow.MlflowClient().create_run(experiment).info.run_id
    shutil.copytree(WEIGHTS / "pixart", folder / "student")
    name_champion(register_student(run, folder / "student", "toy-pixart", ("a circle", "red", 1.0), "x"), {})
    yield folder
    mlflow.set_tracking_uri(None)


@pytest.fixture
def stored(registered: Path) -> Iterator[Path]:
    """The folder in which the registry keeps the student; as it was again after the test."""
    (model,) = registered.glob("artifacts/models/*/artifacts")
    shutil.copytree(model, registered / "kept")
    yield model
    shutil.rmtree(model)
    os.rename(registered / "kept", model)


def test_prompts_of_the_same_words_have_files_of_their_own() -> None:
    long = "a circle " * 12
    asked = [("A cat!", ""), ("a cat", ""), (f"{long}x", ""), (f"{long}y", "")]
    names = {_file_name(prompt, negative, None) for prompt, negative in asked}
    scaled = {_file_name("a cat", "", scale) for scale in (None, 2.0, 2.5)}
    assert len(scaled) == 3 and any(name.startswith("scale-2-5-a-cat") for name in scaled)
    assert len(names) == 4 and all(name.startswith("a-c") and len(name) <= 87 for name in names)


@pytest.mark.parametrize("letter", ["猫", "é", "𠀀", "हि"])
def test_names_fit_file_systems_in_every_script(letter: str, tmp_path: Path) -> None:
    """255 bytes, not characters, whatever the seed."""
    name = _file_name(letter * 300, "", None)
    assert name.startswith(letter) and name.isprintable()
    (tmp_path / f"{name}-{LARGEST_SEED + 10**6}.png").touch()


def generate(registered: Path, out: Path, *more: str) -> int:
    where = ["--tracking-uri", f"sqlite:///{registered}/mlflow.db", "--out", str(out)]
    return main(["--model", URI, "--prompt", "a large circle", *where, *more])


def test_it_draws_and_runs_nothing_of_the_registry(registered: Path, stored: Path, tmp_path: Path) -> None:
    bait = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    codes = list(stored.rglob("*.py"))
    assert "pyfunc_model.py" in {code.name for code in codes}, "else there is no bait"
    for code in codes:
        code.write_text(bait + code.read_text())
    assert generate(registered, tmp_path, "--negative-prompt", "red", "--strength", "1", "--count", "2") == 0
    files = sorted(tmp_path.glob("a-large-circle-not-red-??????-[01].png"))
    assert len(files) == 2
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert files[0].read_bytes() != files[1].read_bytes()
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(
    registered: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, name in [("transformer", "diffusion_pytorch_model"), ("text_encoder", "model")]:
        folder = stored / "artifacts/student" / part
        safe = folder / f"{name}.safetensors"
        kept = safe.read_bytes()
        safe.unlink()
        for suffix in (f"{name}.bin", "pytorch_model.bin"):
            plant(folder / suffix, tmp_path / "ran")
        assert generate(registered, tmp_path) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert (
            last.startswith("error: ")
            and "a pickle, which can run any code" in last
            and f"its {part}" in last
        )
        safe.write_bytes(kept)
    assert generate(registered, tmp_path) == 0, "beside safetensors a pickle is left alone"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["../../../student", "{registered}/student"])
def test_a_model_that_names_files_elsewhere_is_refused(
    path: str, registered: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = yaml.safe_load((stored / "MLmodel").read_text())
    pipeline = description["flavors"]["python_function"]["artifacts"]["pipeline"]
    pipeline["path"] = path.format(registered=registered)
    (stored / "MLmodel").write_text(yaml.safe_dump(description))
    assert generate(registered, tmp_path) == 2
    assert "outside of its own folder" in capsys.readouterr().err


def test_a_link_out_of_the_model_is_refused(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow copies what a link points to; other stores may not."""
    weights = stored / "artifacts/student/transformer/diffusion_pytorch_model.safetensors"
    weights.rename(tmp_path / "elsewhere.safetensors")
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda *_, **__: str(stored))
    with pytest.raises(UserError, match="outside of its own folder"):
        fetch_student(URI, mlflow.get_tracking_uri(), tmp_path)


def test_what_is_no_student_is_told_in_a_line(
    registered: Path, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored / "MLmodel").write_text("flavors: {sklearn: {}}")
    assert generate(registered, tmp_path) == 2
    assert "is not a student of this project" in capsys.readouterr().err
    assert generate(registered, tmp_path, "--model", "models:/nobody@champion") == 2
    assert "nobody" in capsys.readouterr().err
    assert generate(registered, tmp_path, "--model", str(stored)) == 2
    assert "write models:/NAME@champion" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_in_a_line(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert generate(registered, tmp_path / "file" / "pictures") == 2
    assert "pictures: cannot be written: Not a directory" in capsys.readouterr().err


def test_a_file_for_one_picture_is_a_file(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new/circle.PNG"
    assert generate(registered, picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert generate(registered, picture, "--count", "2") == 2
    assert "circle.PNG: is one file for several pictures: name a folder" in capsys.readouterr().err
    assert generate(registered, tmp_path / "circle.jpg") == 2
    assert "pictures are PNG files: end the name with .png" in capsys.readouterr().err
    (tmp_path / "folder.png").mkdir()
    assert generate(registered, tmp_path / "folder.png") == 0
    assert list((tmp_path / "folder.png").glob("a-large-circle-??????-0.png"))


def test_a_disk_that_is_full_is_told_in_a_line(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert generate(registered, tmp_path) == 2
    assert "-0.png: cannot be written: No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir()), "a part of a picture is left"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--seed", "-1", "-1 is not between 0"),
        ("--seed", "9" * 30, "is not between 0"),
        ("--seed", "1.0", "'1.0' is not a whole number"),
        ("--seed", "random", "'random' is not a whole number"),
        ("--count", "0", "0 is below 1"),
        ("--count", "", "'' is not a whole number"),
        ("--strength", "nan", "nan is not a number from 0 to 1000"),
        ("--strength", "1e308", "1e308 is not a number from 0 to 1000"),
        ("--strength", "0,5", "0,5 is not a number from 0 to 1000"),
        ("--prompt", "caf\udce9", r"'caf\udce9' holds bytes that are not UTF-8"),
        ("--negative-prompt", "\ud800", r"'\ud800' holds bytes that are not UTF-8"),
    ],
)
def test_values_that_cannot_be_used_are_refused(
    option: str, value: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        generate(tmp_path, tmp_path, option, value)
    shown = capsys.readouterr().err
    assert f"argument {option}: " in shown and reason in shown


def test_the_end_of_a_long_prompt_is_told_once(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a large red circle " * 4 + "on a green background"
    assert generate(registered, tmp_path, "--prompt", long, "--count", "2") == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 4, "only the names of the files"
    (told,) = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert "is longer than 16 tokens; the model does not read its end: '" in told
    assert told.endswith("on a green background'")


def test_a_scale_for_a_student_that_reads_none_is_one_line(
    registered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(registered, tmp_path, "--guidance-scale", "3") == 2
    assert "does not read guidance scales: leave the option out" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit):
        generate(registered, tmp_path, "--guidance-scale", "0")
    assert "0 is not a number above 0" in capsys.readouterr().err
