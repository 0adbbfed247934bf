"""The pipeline folder of a student: the one place that decides what of a teacher's folder goes into it.

A student has its own network, scheduler and model_index.json. From the teacher come the autoencoder, the text
encoders, the tokenizers and the documents. Nothing else is copied: no other parts, no pickles, no programs.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
from diffusers import ConfigMixin
from huggingface_hub import snapshot_download
from torch import nn

from workloads.backbones.families import Family, family_of, model_index
from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.entry import Lora
from workloads.backbones.loras.merge import merge_into_files
from workloads.backbones.weight_files import find_weights

DOCUMENTS = ("*.md", "*.txt", "LICENSE*", "LICENCE*", "NOTICE*")
"""Files at the top of a folder that say what the model is and what may be done with it."""
TOKENIZER_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
LONGEST = 10**6
"""Tokens; a tokenizer that states more, or nothing, has no length of its own."""


def write_student_folder(
    source: str, network: nn.Module, scheduler: ConfigMixin, folder: Path, loras: Sequence[Lora] = ()
) -> None:
    """Write a student of the pipeline `source` as a folder that stock diffusers loads.

    Args:
        source: folder or hub id of the teacher, or of another student of it.
        network: the student, which this function converts to half precision in place.
        scheduler: the student's; see `schedulers`.
        folder: may exist, but hold none of these files.
        loras: of the teacher; they are merged into the text encoders here, and were into `network` before.

    Raises:
        ValueError: a part of the teacher is missing or cannot be downloaded.
    """
    family, local = family_of(source), _download(source)
    folder.mkdir(parents=True, exist_ok=True)
    _copy(local, folder, DOCUMENTS)
    _copy_model(local, folder, "vae", {})
    for part, _ in family.text_encoders:
        # Else transformers goes by what the weights or the teacher's config say, diffusers by float32.
        _copy_model(local, folder, part, {"dtype": "float32"})
        merge_into_files(folder, part, source, loras)
    for part in family.tokenizers:
        _copy_tokenizer(local, folder, part, family.most_tokens(part))
    whole: Any = network
    whole.eval().half().save_pretrained(folder / family.network)
    scheduler.save_pretrained(folder / "scheduler")
    index = _index(family, model_index(source), type(whole).__name__, type(scheduler).__name__)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _download(source: str) -> Path:
    """Return the folder of `source`, downloaded to the hub's cache for a hub id."""
    if Path(source).exists():
        return Path(source)
    family = family_of(source)
    parts = ("vae", *(name for name, _ in family.text_encoders))
    wanted = [f"{part}/*.{kind}" for part in parts for kind in ("json", "safetensors")]
    wanted += [f"{part}/{pattern}" for part in family.tokenizers for pattern in TOKENIZER_FILES]
    name, revision = split_source(source)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*wanted, *DOCUMENTS]))
    except (OSError, ValueError) as error:
        raise ValueError(f"backbone {source!r}: it cannot be downloaded: {one_line(error)}") from None


def _index(family: Family, teacher: dict[str, Any], network: str, scheduler: str) -> dict[str, Any]:
    """Return the student's model_index.json, given the teacher's and the classes of its own parts."""
    return {
        "_class_name": family.pipeline,
        "_diffusers_version": diffusers.__version__,
        **family.options(teacher),
        family.network: ["diffusers", network],
        "scheduler": ["diffusers", scheduler],
        "vae": ["diffusers", family.autoencoder],
        **{name: ["transformers", kind] for name, kind in family.text_encoders},
        **{name: teacher[name] for name in family.tokenizers},
        **{name: [None, None] for name in family.unused},
    }


def _copy_tokenizer(source: Path, folder: Path, part: str, tokens: int) -> None:
    """Copy a tokenizer; where its own length is unknown, stock pipelines need one."""
    (folder / part).mkdir(exist_ok=True)
    _copy(source / part, folder / part, TOKENIZER_FILES)
    config = folder / part / "tokenizer_config.json"
    content = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    if content.get("model_max_length", LONGEST) >= LONGEST:
        config.write_text(json.dumps({**content, "model_max_length": tokens}, indent=2))


def _copy_model(source: Path, folder: Path, part: str, entries: dict[str, str]) -> None:
    """Copy a part's config, with other `entries`, and its weights, under the names that loaders expect."""
    (folder / part).mkdir(exist_ok=True)
    config = json.loads((source / part / "config.json").read_text(encoding="utf-8"))
    if entries:
        config.pop("torch_dtype", None)  # the older name of `dtype`
    (folder / part / "config.json").write_text(json.dumps({**config, **entries}, indent=2) + "\n")
    weights = find_weights(str(source), part)
    for file in weights.files:
        shutil.copyfile(file, folder / part / weights.plain_name(file))
    if weights.index is not None:
        content = json.loads(weights.index.read_text(encoding="utf-8"))
        plain = {name: weights.plain_name(Path(shard)) for name, shard in content["weight_map"].items()}
        index = folder / part / weights.plain_name(weights.index)
        index.write_text(json.dumps({**content, "weight_map": plain}, indent=2))


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for file in {file for pattern in patterns for file in source.glob(pattern) if file.is_file()}:
        shutil.copyfile(file, folder / file.name)
