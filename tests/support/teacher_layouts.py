"""Toy teachers in folders with the layout that the published teachers of every family have.

    FAMILIES["sd15"](folder); scheduler(rescale_betas_zero_snr=True)(folder); sharded("unet", "fp16")(folder)

A family writes a folder with the published index, scheduler and tokenizer files, and small weights: those of
the miniatures, or random ones. A change turns it into another layout that is met in published folders.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from tests.support import published_tokenizers, tiny_sdxl
from workloads.backbones.architectures import SHIPPED
from workloads.miniature import WEIGHTS
from workloads.miniature.networks import TEXT_WIDTH

Change = Callable[[Path], object]
CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "transformer": PixArtTransformer2DModel,
    "vae": AutoencoderKL,
    "safety_checker": StableDiffusionSafetyChecker,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
"""Class of each part of the older families."""
LISTED_OTHERWISE = ("Transformer2DModel", "StableDiffusionSafetyChecker")
LIBRARIES: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}


def _sd15(folder: Path) -> None:
    _miniature(folder, "unet-epsilon", "sd15", _diffusers_version="0.6.0")
    save_clip(folder, "", pad="<|endoftext|>")
    _save_safety_checker(folder)


def _sd21(folder: Path) -> None:
    entries = {"safety_checker": [None, None], "requires_safety_checker": False}
    extractor = ["transformers", "CLIPFeatureExtractor"]  # a class that transformers no longer has
    _miniature(folder, "unet-epsilon", "sd21-base", feature_extractor=extractor, **entries)
    save_clip(folder, "", pad="!")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")


def _sdxl(folder: Path) -> None:
    torch.manual_seed(0)
    tiny_sdxl.network().save_pretrained(folder / "unet")
    shutil.copytree(WEIGHTS / "unet-epsilon/vae", folder / "vae")
    published(folder, "sdxl", add_watermarker=None)
    save_clip(folder, "", pad="<|endoftext|>")
    save_clip(folder, "_2", pad="!", hidden_size=32, projection_dim=tiny_sdxl.POOLED, num_hidden_layers=3)
    for part in ("text_encoder", "text_encoder_2"):  # as published, although the plain weights are in float32
        edited(f"{part}/config.json", torch_dtype="float16")(folder)
        without(f"{part}/config.json", "dtype")(folder)


def _pixart(folder: Path) -> None:
    _miniature(folder, "pixart", "pixart-512", _diffusers_version="0.22.0.dev0")
    edited("transformer/config.json", _class_name="Transformer2DModel", norm_type="ada_norm_single")(folder)
    save_t5_encoder(folder, "")


FAMILIES: dict[str, Change] = {"sd15": _sd15, "sd21": _sd21, "sdxl": _sdxl, "pixart": _pixart}
"""Writes the folder of each family, as published."""


def _miniature(folder: Path, teacher: str, name: str, **entries: Any) -> None:
    """Copy network and autoencoder of a miniature, and write the published index and scheduler."""
    ignored = shutil.ignore_patterns("text_encoder", "tokenizer")
    shutil.copytree(WEIGHTS / teacher, folder, ignore=ignored, dirs_exist_ok=True)
    published(folder, name, **entries)


def published(folder: Path, name: str, **entries: Any) -> None:
    """Write the index and scheduler of the shipped folder `name`, and set `entries` of the index."""
    for file in ("model_index.json", "scheduler/scheduler_config.json"):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(SHIPPED / name / file, folder / file)
    index(**entries)(folder)


def save_t5_encoder(folder: Path, suffix: str) -> None:
    """Write a tokenizer of spiece.model, and a random text encoder for it."""
    config = T5Config(
        vocab_size=published_tokenizers.save_t5(folder / f"tokenizer{suffix}"),
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder / f"text_encoder{suffix}")


def save_clip(folder: Path, suffix: str, pad: str, kind: str = "", **sizes: int) -> None:
    """Write a tokenizer of vocab.json and merges.txt, and a random text encoder for it.

    `kind` is the class of the encoder if it is not that of Stable Diffusion or SDXL.
    """
    words = published_tokenizers.save_clip(folder / f"tokenizer{suffix}", pad)
    config = CLIPTextConfig(
        **{
            "vocab_size": words,
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "projection_dim": TEXT_WIDTH,
            **sizes,
        },
        max_position_embeddings=77,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,  # as published: the last token is then the one with the greatest id
    )
    torch.manual_seed(0)
    encoder = getattr(transformers, kind) if kind else CLASSES[f"text_encoder{suffix}"]
    encoder(config).save_pretrained(folder / f"text_encoder{suffix}")


def _save_safety_checker(folder: Path) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 8, "patch_size": 4})
    StableDiffusionSafetyChecker(config).save_pretrained(folder / "safety_checker")
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    listed = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index(safety_checker=listed, feature_extractor=["transformers", "CLIPImageProcessor"])(folder)


def edited(file: str, **entries: Any) -> Change:
    """Set entries of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **entries}, indent=2))

    return change


def without(file: str, entry: str) -> Change:
    """Remove an entry of a JSON file."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        del content[entry]
        (folder / file).write_text(json.dumps(content, indent=2))

    return change


def index(**entries: Any) -> Change:
    """Set entries of model_index.json."""
    return edited("model_index.json", **entries)


def scheduler(**entries: Any) -> Change:
    """Set entries of the scheduler's config, and its class in the index."""

    def change(folder: Path) -> None:
        edited("scheduler/scheduler_config.json", **entries)(folder)
        if "_class_name" in entries:
            index(scheduler=["diffusers", entries["_class_name"]])(folder)

    return change


def removed(name: str) -> Change:
    """Remove a file or folder."""

    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def renamed(name: str, new: str) -> Change:
    """Rename a file within its folder."""
    return lambda folder: (folder / name).rename((folder / name).with_name(new))


def added(name: str, content: str = "") -> Change:
    """Write a file, with its folder."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return change


def saved_again(part: str, **options: Any) -> Change:
    """Save a part's weights by its library with other `options`, such as `variant` and `max_shard_size`."""

    def change(folder: Path) -> None:
        library, name = json.loads((folder / "model_index.json").read_text())[part]
        kind = CLASSES[part] if name in LISTED_OTHERWISE else getattr(LIBRARIES[library], name)
        model = kind.from_pretrained(folder / part)
        for file in (folder / part).glob("*.safetensors*"):
            file.unlink()
        model.half().save_pretrained(folder / part, **options)

    return change


def in_float16(part: str, shards: bool = False) -> Change:
    """Keep a part's weights as the variant fp16 alone, in one file or in shards."""
    return saved_again(part, variant="fp16", **({"max_shard_size": "200KB"} if shards else {}))


def linked(folder: Path) -> None:
    """Replace every file by a link to another place, as in the hub's cache."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        blob = folder.parent / "blobs" / file.relative_to(folder).as_posix().replace("/", "-")
        blob.parent.mkdir(exist_ok=True)
        file.rename(blob)
        file.symlink_to(blob)
