"""Checkpoints as files: which is taken, what is said of damaged ones, which stay."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import save_file

from orchestrator.common.storage import Store, file_digest
from orchestrator.data.shard_order import Position
from orchestrator.jobs import CheckpointFailed, CheckpointWritten, StepReport
from orchestrator.training.checkpoint.manifest import (
    MANIFEST,
    OLDEST,
    DamagedCheckpointError,
    Manifest,
    Progress,
    verify,
)
from orchestrator.training.checkpoint.store import CheckpointStore

NAMES = ("student-0000.safetensors", "average-0000.safetensors")


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def write_part(folder: Path) -> dict[str, str]:
    for name in NAMES:
        save_file({"x": torch.arange(64.0)}, folder / name)
    return {name: file_digest(folder / name) for name in NAMES}


def progress(step: int) -> Progress:
    return Progress(step, Position(1, 2, 3), 0.5, "digest", (StepReport(1, {"student_loss": 0.25}),))


def checkpoints(folder: Path, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(Store(str(folder)), "checkpoints", rank=0, keep=keep)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda c: flip(c / NAMES[0]), f"{NAMES[0]} has changed"),
    "a torn file": (lambda c: (c / NAMES[1]).write_bytes(b"{"), f"{NAMES[1]} has changed"),
    "a missing file": (lambda c: (c / NAMES[0]).unlink(), f"{NAMES[0]} is missing"),
    "no manifest": (lambda c: (c / MANIFEST).unlink(), f"{MANIFEST} is missing"),
    "an empty manifest": (lambda c: (c / MANIFEST).write_text(""), f"{MANIFEST} cannot be read"),
    "a torn manifest": (lambda c: (c / MANIFEST).write_text('{"progress": {'), "cannot be read"),
    "a manifest that is a list": (lambda c: (c / MANIFEST).write_text("[]"), "cannot be read"),
    "a manifest of another version": (
        lambda c: (c / MANIFEST).write_text((c / MANIFEST).read_text().replace('"layout": 3', '"layout": 4')),
        "has layout 4: another version of this program wrote it, this version reads layouts from 2 to 3",
    ),
    "a manifest of an earlier version": (
        lambda c: (c / MANIFEST).write_text((c / MANIFEST).read_text().replace('"layout": 3,', "")),
        "has layout 1: another version",
    ),
    "a manifest of another kind": (lambda c: (c / MANIFEST).write_text('{"a": 1}'), "cannot be read"),
    "a manifest that points elsewhere": (
        lambda c: (c / MANIFEST).write_text((c / MANIFEST).read_text().replace(NAMES[0], "../../x")),
        "names a file outside of the folder",
    ),
    "a pickle in place of weights": (
        lambda c: torch.save({"x": torch.ones(2)}, c / NAMES[0]),
        f"{NAMES[0]} has changed",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside(tmp_path: Path, name: str) -> None:
    store = checkpoints(tmp_path)
    for step in (4, 8):
        assert isinstance(store.save(progress(step), None, write_part), CheckpointWritten)
    newest = tmp_path / "checkpoints/step-00000008"
    spoil, says = DAMAGE[name]
    spoil(newest)
    taken, notes = store.newest()
    assert taken == "checkpoints/step-00000004"
    assert len(notes) == 1 and says in notes[0] and str(newest) in notes[0] and "\n" not in notes[0]
    assert newest.with_name("step-00000008.damaged").is_dir() and not newest.exists()


def test_adapters_in_an_older_order_are_not_read(tmp_path: Path) -> None:
    """Layout 2 is that of whole students; an adapter student would load it without an error, but wrongly."""
    store = checkpoints(tmp_path)
    store.save(progress(4), None, write_part)
    manifest = tmp_path / "checkpoints/step-00000004" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"layout": 3', '"layout": 2'))
    assert store.newest() == ("checkpoints/step-00000004", [])
    adapters = CheckpointStore(
        Store(str(tmp_path)), "checkpoints", rank=0, keep=2, oldest_layout=OLDEST[True]
    )
    taken, (note,) = adapters.newest()
    assert taken is None and "has layout 2: another version of this program wrote it" in note


def test_the_same_step_may_be_damaged_again(tmp_path: Path) -> None:
    store, spoil = checkpoints(tmp_path), DAMAGE[next(iter(DAMAGE))][0]
    for number, aside in enumerate((".damaged", ".damaged-2", ".damaged-3"), 1):
        assert isinstance(store.save(progress(8), None, write_part), CheckpointWritten)
        spoil(tmp_path / "checkpoints/step-00000008")
        taken, notes = store.newest()
        assert taken is None and notes[0].endswith(f"set aside as *{aside}")
        assert len(list((tmp_path / "checkpoints").iterdir())) == number


def test_a_checkpoint_is_read_back(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    saved = store.save(progress(4), 0.5, write_part)
    folder = tmp_path / "checkpoints/step-00000004"
    assert saved == CheckpointWritten(str(folder), file_digest(folder / MANIFEST))
    assert verify(folder) == Manifest(progress(4), 1, write_part(folder), 0.5)
    assert store.progress("checkpoints/step-00000004") == progress(4)
    (tmp_path / "checkpoints/step-00000008.part").mkdir()
    assert store.newest() == ("checkpoints/step-00000004", [])
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    store = checkpoints(tmp_path, keep=2)
    for step, score in {2: 0.1, 4: 0.9, 6: None, 8: 0.3, 10: 0.2}.items():
        store.save(progress(step), score, write_part)
    steps = sorted(int(path.name[-8:]) for path in (tmp_path / "checkpoints").iterdir())
    assert steps == [4, 8, 10]


def test_a_failed_write_keeps_earlier_checkpoints(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    store.save(progress(4), None, write_part)

    def fails(folder: Path) -> dict[str, str]:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    saved = store.save(progress(8), None, fails)
    assert isinstance(saved, CheckpointFailed)
    assert "rank 0: [Errno 28] No space left on device" in saved.problem
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    manifest = Manifest(progress(4), 2, {"a": "b"}, None)
    assert Manifest.parse(manifest.to_json().encode()) == manifest
    assert json.loads(manifest.to_json())["progress"]["position"] == {"epoch": 1, "shard": 2, "row": 3}
    with pytest.raises(DamagedCheckpointError):
        Manifest.parse(replace(manifest, files={}).to_json().encode()[:-5])
