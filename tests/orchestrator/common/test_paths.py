"""Names from a sweep file, a registry or the storage itself lead nowhere but into the storage."""

from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.plan import make_plan

SWEEP = Path(__file__).parents[3] / "sweeps/miniature.yaml"
OUTSIDE = ["../a", "a/../../b", "/etc/passwd", "a//b", "a/.", "..", "", "a/", "..\\a", "a\0b"]
NO_NAMES = ["..", ".", "../a", "/a", "a/b", "a\\b", "", "a\n", "\na", " a", "-a", "a\0b", "a" * 64]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_stay_in_the_storage(name: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "a/store"))
    uses = (store.read, store.exists, store.delete, lambda n: store.write(n, b"x"))
    for use in (*uses, lambda n: store.put_folder(tmp_path, n), lambda n: store.folder(n).__enter__()):
        with pytest.raises(UserError, match="is not a file name inside of it"):
            use(name)
    assert not list(tmp_path.iterdir())


def test_a_link_inside_the_storage_is_followed(tmp_path: Path) -> None:
    """So that a storage can lie on more than one disk; who may make links there may write there."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store/artifacts").symlink_to(tmp_path / "disk")
    Store(str(tmp_path / "store")).write("artifacts/a", b"x")
    assert (tmp_path / "disk/a").read_bytes() == b"x"


@pytest.mark.parametrize("setting", ["name", "backbones.0.name"])
@pytest.mark.parametrize("name", NO_NAMES)
def test_a_sweep_or_backbone_is_named_by_one_plain_word(setting: str, name: str) -> None:
    quoted = '"' + "".join(f"\\x{ord(letter):02x}" for letter in name) + '"'
    with pytest.raises(UserError, match=r"should match pattern|NUL or an unpaired surrogate"):
        load_sweep(SWEEP, [f"{setting}={quoted}"])


@pytest.mark.parametrize("model", ["miniature/../pixart", "miniature/", "miniature//etc"])
def test_a_miniature_is_one_of_three(model: str) -> None:
    with pytest.raises(UserError, match=r"choose one of miniature/unet-epsilon, "):
        make_plan(load_sweep(SWEEP, [f"backbones.0.model={model}"]))
