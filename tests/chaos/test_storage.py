"""What happens to files: prompt shards that were altered or torn, and a disk that is full for a while."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.chaos import ONE_WORKER, Sweep, hold, verdict, wait_until

pytestmark = [pytest.mark.chaos, pytest.mark.cluster]
KILOBYTE = 2**10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory; needs root, as the tests have in a container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_shards_are_altered_and_the_disk_is_full(prepared: Callable[..., Sweep], small_disk: Path) -> None:
    """The trial that reads an altered shard fails in a line; the same command makes it anew, to the
    same bytes. Checkpoints that find no room fail in words and leave nothing, and the training goes on."""
    sweep = prepared(storage=small_disk / "results")
    shards = [shard for shard in sweep.storage.glob("prompts/*/*/*.parquet") if shard.parent.name != "text"]
    whole = {shard: shard.read_bytes() for shard in shards}
    altered, torn = shards[0], shards[1]
    altered.write_bytes(whole[altered][:-200] + bytes([whole[altered][-200] ^ 1]) + whole[altered][-199:])
    torn.write_bytes(whole[torn][:-100])
    first = sweep.launch(*ONE_WORKER)
    assert first.end() == 1, first.output
    shard = altered.relative_to(sweep.storage)
    assert f"prompt shard {shard}: is missing, or was set aside because it had changed" in first.output
    assert "Traceback" not in first.output
    assert torn.read_bytes() == whole[torn], "a shard of another size is made anew at once"
    assert not sweep.results()

    sweep.plan(hold(7), hold(14))
    second = sweep.launch(*ONE_WORKER)
    sweep.wait_for_step(6, second)
    filler = fill(small_disk)
    sweep.release(7)
    wait_until(lambda: "step-00000012 cannot be written" in second.output, 180)
    assert "No space left on device" in second.output and "the training continues" in second.output
    filler.unlink()
    sweep.release(14)
    assert second.end() == 0, second.output
    assert "Traceback" not in second.output
    verdict(sweep, trials=1)
    assert not list(small_disk.rglob("step-00000012*"))
    assert {shard: shard.read_bytes() for shard in shards} == whole
    assert altered.with_name(altered.name + ".damaged").exists()


def fill(disk: Path) -> Path:
    """Takes all that is free; returns the file that does."""
    name = disk / "filler"
    with name.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"0" * (64 * KILOBYTE))
        except OSError:
            return name
