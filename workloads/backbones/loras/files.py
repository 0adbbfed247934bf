"""Files of a LoRA: where they are, and the settings that PEFT keeps beside them. Imports no torch.

path -> find_files -> LoraFile (one, or one for each component of the pipeline)
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.entry import Lora
from workloads.backbones.weight_files import PICKLE_SUFFIXES

DIFFUSERS_FILE, PEFT_FILE = "pytorch_lora_weights.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
STANDARD = (DIFFUSERS_FILE, PEFT_FILE)
"""Names under which the libraries save a LoRA."""
Config = Mapping[str, Any]
"""Settings of a LoRA as PEFT names them, such as `r` and `lora_alpha`."""


@dataclass(frozen=True)
class LoraFile:
    """A safetensors file with pairs of low-rank factors."""

    path: Path
    part: str | None = None
    """Component of the pipeline that its folder is named after; None: the names of its weights tell."""
    config: Config | None = None
    """PEFT's adapter_config.json; None for a file of another tool."""


def find_files(path: str) -> tuple[LoraFile, ...]:
    """Return the files of the LoRA at `path`; one on the hub is downloaded to the hub's cache.

    Raises:
        ValueError: There is none, it is a pickle, or its adapter_config.json is missing or unsuitable.
    """
    local = Path(path)
    if local.is_dir():
        return _in_folder(local, path, _names(local))
    if local.exists():
        return (_file(local, path),)
    name, revision, file = split_path(path)
    if not is_hub_path(path):
        raise ValueError(f"lora {path!r}: no such file or folder: give a file, a folder or a hub id")
    if file is not None:
        return (_file(_download(path, name, revision, _wanted(file)) / file, path),)
    return _in_folder(_download(path, name, revision, _WANTED), path, STANDARD)


def split_path(path: str) -> tuple[str, str | None, str | None]:
    """Return the hub id, the revision and the file of `owner/name[@revision][:file]`."""
    head, _, file = path.partition(":")
    return *split_source(head), file or None


def is_hub_path(path: str) -> bool:
    """Return True for `owner/name[@revision][:file]`, and False for a local path, even of no file."""
    name = split_path(path)[0]
    return (
        name.count("/") == 1
        and not name.startswith((".", "/", "~"))
        and not name.endswith((".safetensors", *PICKLE_SUFFIXES))
        and not Path(path).exists()
    )


def files_digests(lora: Lora) -> list[str]:
    """Return the SHA-256 of each file of a LoRA, and of its settings."""
    found = []
    for file in find_files(lora.path):
        with file.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        digest.update(json.dumps([file.part, file.config], sort_keys=True).encode())
        found.append(digest.hexdigest())
    return found


_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
_FILES = (*STANDARD, PEFT_CONFIG)
_WANTED = (*_FILES, *(f"{part}/{file}" for part in _COMPONENTS for file in _FILES))
"""Files that are downloaded of a hub id without a file's name."""


def _wanted(file: str) -> tuple[str, ...]:
    return (file, (Path(file).parent / PEFT_CONFIG).as_posix())


def _download(path: str, name: str, revision: str | None, wanted: Sequence[str]) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"lora {path!r}: no such file, and no model on the hub or in its cache: {one_line(error)}"
        ) from None


def _names(folder: Path) -> tuple[str, ...]:
    """Return the names of the one file in the folder that may be the LoRA, the standard ones first."""
    return (*STANDARD, *sorted(path.name for path in folder.glob("*.safetensors")))


def _in_folder(folder: Path, path: str, names: Sequence[str]) -> tuple[LoraFile, ...]:
    found = list(dict.fromkeys(name for name in names if (folder / name).is_file()))
    if found and (len(found) == 1 or found[0] in STANDARD):
        return (_file(folder / found[0], path),)
    if found:
        raise ValueError(
            f"lora {path!r}: the folder has several safetensors files, such as {found[0]}: name one"
        )
    parts = [part for part in _COMPONENTS if (folder / part / PEFT_FILE).is_file()]
    if not parts:
        raise ValueError(f"lora {path!r}: {_nothing(folder, path)}")
    return tuple(_file(folder / part / PEFT_FILE, path, part) for part in parts)


def _nothing(folder: Path, path: str) -> str:
    """Describe what a folder without a LoRA has instead, and what to do about it."""
    pickles = sorted(each.name for each in folder.iterdir() if each.name.endswith(PICKLE_SUFFIXES))
    if pickles:
        return _pickle(pickles[0])
    standard = " nor ".join(STANDARD)
    remedy = f"name its file: {path}:FILE.safetensors" if is_hub_path(path) else "name a safetensors file"
    return f"has neither {standard}: {remedy}"


def _pickle(name: str) -> str:
    return (
        f"{name} is a pickle, which can run any code when it is opened: take the safetensors file, or, if "
        f"you trust it, save its tensors with safetensors.torch.save_file"
    )


def _file(file: Path, path: str, part: str | None = None) -> LoraFile:
    if file.name.endswith(PICKLE_SUFFIXES):
        raise ValueError(f"lora {path!r}: {_pickle(file.name)}")
    if not file.is_file():
        raise ValueError(f"lora {path!r}: the hub's model has no file {file.name}: name one that it has")
    config = _peft_config(file.parent / PEFT_CONFIG, path) if file.name == PEFT_FILE else None
    return LoraFile(file, part, config)


def _peft_config(file: Path, path: str) -> Config:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(
            f"lora {path!r}: has {PEFT_FILE} without the {PEFT_CONFIG} that states its alpha: copy both"
        ) from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"lora {path!r}: its {PEFT_CONFIG} is not a JSON object: copy it again")
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"lora {path!r}: its {PEFT_CONFIG} has peft_type {config.get('peft_type')}: give one of LORA"
        )
    return config
