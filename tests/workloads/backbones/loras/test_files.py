"""Where the files of a LoRA are found: local files and folders, and ids on the hub, from its cache."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workloads.backbones.loras.files import find_files, is_hub_path, split_path

COMMITS = ("1" * 40, "2" * 40)
"""The second is the newest, to which the branch main points."""


@pytest.fixture()
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with two commits of a LoRA in diffusers' format, with another file beside it."""
    repository = tmp_path / "hub/models--owner--style"
    for number, commit in enumerate(COMMITS):
        for name in ("pytorch_lora_weights.safetensors", "more/style v2.safetensors"):
            file = repository / "snapshots" / commit / name
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"number": torch.tensor(number)}, file)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMITS[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return repository / "snapshots"


@pytest.mark.parametrize(
    ("path", "commit", "file"),
    [
        ("owner/style", COMMITS[1], "pytorch_lora_weights.safetensors"),
        (f"owner/style@{COMMITS[0]}", COMMITS[0], "pytorch_lora_weights.safetensors"),
        (f"owner/style@{COMMITS[0]}:more/style v2.safetensors", COMMITS[0], "more/style v2.safetensors"),
        ("owner/style:more/style v2.safetensors", COMMITS[1], "more/style v2.safetensors"),
    ],
)
def test_hub_ids_with_revision_and_file(path: str, commit: str, file: str, hub: Path) -> None:
    (found,) = find_files(path)
    assert found.path == hub / commit / file and found.part is None and found.config is None


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (
            "owner/style:more/other.safetensors",
            r"the hub's model has no file other\.safetensors: name one that",
        ),
        ("owner/style:style.ckpt", r"style\.ckpt is a pickle"),
        ("owner/other", r"lora 'owner/other': no such file, and no model on the hub"),
    ],
)
def test_what_the_hub_lacks_is_one_line(path: str, pattern: str, hub: Path) -> None:
    with pytest.raises(ValueError, match=pattern):
        find_files(path)


@pytest.mark.usefixtures("hub")
def test_hub_model_without_a_standard_name(tmp_path: Path) -> None:
    repository = tmp_path / "hub/models--owner--style"
    for commit in COMMITS:
        (repository / "snapshots" / commit / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has neither .*: name its file: owner/style:FILE\.safetensors"):
        find_files("owner/style")


def test_local_folders(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "style.safetensors")
    assert [found.path.name for found in find_files(str(tmp_path))] == ["style.safetensors"]
    for part in ("text_encoder", "unet"):
        (tmp_path / "peft" / part).mkdir(parents=True)
        save_file({"a": torch.ones(1)}, tmp_path / "peft" / part / "adapter_model.safetensors")
        config = tmp_path / "peft" / part / "adapter_config.json"
        config.write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    found = find_files(str(tmp_path / "peft"))
    assert [each.part for each in found] == ["unet", "text_encoder"] and all(each.config for each in found)


def test_hub_paths_are_told_from_local_ones(tmp_path: Path) -> None:
    assert split_path("owner/style@v1:a/b.safetensors") == ("owner/style", "v1", "a/b.safetensors")
    assert split_path("owner/style") == ("owner/style", None, None)
    hub = ("owner/style", "owner/style@v1", "owner/style:a.safetensors", "owner/style@refs/pr/1")
    local = ("style.safetensors", "loras/style.safetensors", "./a", "/a/b", "~/a", "a/b/c", "loras/a.ckpt")
    assert all(map(is_hub_path, hub)) and not any(map(is_hub_path, local))
    assert not is_hub_path(str(tmp_path))
