"""Damaged backbone folders: refused in one line before anything starts, and by workers too."""

import json
import os.path
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.api import load_sweep, make_plan
from orchestrator.planning.backbone_checks import check_backbones
from tests.support.cli import SWEEP, refused, written
from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.miniature import WEIGHTS
from workloads.students.student import load_autoencoder

Spoil = Callable[[Path], None]


def edited(name: str, **changes: Any) -> Spoil:
    """Change keys of a JSON file of the folder (None: remove)."""

    def spoil(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return spoil


def rewritten(name: str, text: str) -> Spoil:
    return lambda folder: void((folder / name).write_text(text))


def removed(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def renamed(name: str, new: str) -> Spoil:
    return lambda folder: void((folder / name).rename((folder / name).parent / new))


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Spoil:
    """Change tensors of a safetensors file of the folder."""

    def spoil(folder: Path) -> None:
        found = load_file(folder / name)
        change(found)
        save_file(found, folder / name)

    return spoil


def cut(name: str, share: float) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def headed(name: str, header: bytes) -> Spoil:
    """Write a safetensors file with this header and no data."""
    return lambda folder: void((folder / name).write_bytes(struct.pack("<Q", len(header)) + header))


def void(_: object) -> None:
    """Discard a lambda's value."""


UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
Open = Callable[[str], object]
"""Function of a worker that must refuse the folder too, if it changes after the check."""

FOLDERS: list[tuple[str, Spoil, str, Open | None]] = [
    ("no-index", removed("model_index.json"), r"is not a diffusers pipeline", load_backbone),
    ("index-no-json", rewritten("model_index.json", "{"), r"is not a diffusers pipeline", load_backbone),
    ("index-a-list", rewritten("model_index.json", "[]"),
     r"class None is not supported; supported are: Stable", load_backbone),
    ("wrong-pipeline", edited("model_index.json", _class_name="FluxPipeline"),
     r"class FluxPipeline is not supported; supported are: StableDiffusionPipeline", load_backbone),
    ("no-unet-listed", edited("model_index.json", unet=None), r"model_index\.json lists no unet", None),
    ("null-encoder", edited("model_index.json", text_encoder=[None, None]), r"lists no text_encoder", None),
    ("wrong-network", edited("model_index.json", unet=["diffusers", "FluxTransformer2DModel"]),
     r"its unet is a FluxTransformer2DModel; supported is UNet2DConditionModel", None),
    ("wrong-encoder", edited("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
     r"its text_encoder is a T5EncoderModel; supported is CLIPTextModel", None),
    ("wrong-vae", edited("vae/config.json", _class_name="VQModel"),
     r"its vae is a VQModel; supported is Auto", None),
    ("no-unet", removed("unet"), r"its unet/config\.json cannot be read: No such file", load_backbone),
    ("no-vae", removed("vae"), r"its vae/config\.json cannot be read: No such file", load_autoencoder),
    ("no-text-encoder", removed("text_encoder"),
     r"its text_encoder/config\.json cannot be read", TextEncoder),
    ("no-scheduler", removed("scheduler"),
     r"its scheduler/scheduler_config\.json cannot be read", load_backbone),
    ("no-tokenizer", removed("tokenizer"), r"its tokenizer has none of tokenizer\.json", encoder_digest),
    ("tokenizer-cut", cut("tokenizer/tokenizer.json", 0.5),
     r"tokenizer/tokenizer\.json is not valid JSON", TextEncoder),
    ("config-no-json", rewritten("unet/config.json", "nope"),
     r"its unet/config\.json is not valid JSON", load_backbone),
    ("config-a-list", rewritten("unet/config.json", "[]"),
     r"its unet/config\.json is not a JSON object", load_backbone),
    ("config-of-nonsense", edited("unet/config.json", block_out_channels=5),
     r"no network can be built from its unet/config\.json", load_backbone),
    ("flow-matching", edited("scheduler/scheduler_config.json", prediction_type="flow"),
     r"its scheduler cannot be read: .*'flow' .* is not supported", load_backbone),
    ("no-weights", removed(UNET), r"its unet has no diffusion_pytorch_model\.safetensors", load_backbone),
    ("pickle-bin", renamed(UNET, "diffusion_pytorch_model.bin"),
     r"its unet has no .* but diffusion_pytorch_model\.bin, a pickle, .*safe_serialization=True",
     load_backbone),
    ("pickle-ckpt", renamed(VAE, "vae.ckpt"), r"its vae has no .* but vae\.ckpt, a pickle", load_autoencoder),
    ("pickle-encoder", renamed(TEXT, "pytorch_model.bin"),
     r"has no model\.safetensors but pytorch_model\.bin", TextEncoder),
    ("other-weights-only", renamed(UNET, "diffusion_pytorch_model.non_ema.safetensors"),
     r"but diffusion_pytorch_model\.non_ema\.safetensors: open the pipeline", load_backbone),
    ("cut-short", cut(UNET, 0.5),
     r"is truncated or not a safetensors file \(.*file not fully covered\): download it again",
     load_backbone),
    ("cut-in-header", cut(UNET, 0.001),
     r"is truncated or not a safetensors file \(.*\): download it again", load_backbone),
    ("empty-weights", cut(UNET, 0), r"is truncated or not a safetensors file", load_backbone),
    ("cut-encoder", cut(TEXT, 0.9), r"model\.safetensors is truncated", TextEncoder),
    ("cut-vae", cut(VAE, 0.9), r"vae/.* is truncated", load_autoencoder),
    ("header-no-json", headed(UNET, b"{}}}"),
     r"not a safetensors file \(.*invalid JSON in header", load_backbone),
    ("header-odd", headed(UNET, b'{"a": {"shape": 5}}'),
     r"not a safetensors file \(.*invalid JSON in header", load_backbone),
    ("pickled-shard", lambda folder: (renamed(UNET, "part.bin")(folder), rewritten(
        f"{UNET}.index.json", '{"weight_map": {"a": "part.bin"}}')(folder))[0],
     r"index\.json has no weight_map to safetensors files", load_backbone),
    ("missing-tensor", tensors(UNET, lambda t: t.pop("conv_in.weight")),
     r"its unet lacks 1 of \d+ weights, such as conv_in\.weight", load_backbone),
    ("shape-mismatch", tensors(UNET, lambda t: t.update({"conv_in.weight": torch.zeros(7, 7)})),
     r"its unet has conv_in\.weight of shape \[7, 7\] where its config\.json implies \[32, 4, 3, 3\]",
     load_backbone),
    ("shard-missing", lambda folder: (renamed(UNET, "other.safetensors")(folder), rewritten(
        f"{UNET}.index.json", '{"weight_map": {"a": "part-1.safetensors"}}')(folder))[0],
     r"part-1\.safetensors cannot be read: No such file", load_backbone),
    ("encoder-missing-tensor", tensors(TEXT, lambda t: t.pop(min(t))),
     r"its text_encoder lacks 1 of \d+ weights", TextEncoder),
    ("encoder-shape", edited("text_encoder/config.json", vocab_size=7),
     r"its text_encoder has .*where its config", None),
    ("widths-differ", edited("unet/config.json", cross_attention_dim=32),
     r"its unet has .*where its config", None),
]  # fmt: skip


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A valid backbone, to be damaged."""
    shutil.copytree(WEIGHTS / "unet-v", tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("spoil", "pattern"), [row[1:3] for row in FOLDERS], ids=[row[0] for row in FOLDERS])
def test_damaged_folder_is_refused_before_start(
    spoil: Spoil, pattern: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    sweep = written(tmp_path, SWEEP.replace("miniature/pixart", str(folder)))
    refused(capsys, pattern, sweep, "--storage", str(tmp_path / "results"))


OPENED = [(row[0], row[1], row[3]) for row in FOLDERS if row[3] is not None]


@pytest.mark.parametrize(("spoil", "opens"), [row[1:] for row in OPENED], ids=[row[0] for row in OPENED])
def test_damaged_folder_is_refused_by_workers(spoil: Spoil, opens: Open, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(ValueError) as caught:
        opens(str(folder))
    assert len(str(caught.value).splitlines()) == 1 and str(folder) in str(caught.value)


def test_home_folder_is_written_as_tilde(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    sweep = written(tmp_path, SWEEP.replace("miniature/pixart", "~/teacher"))
    plan = make_plan(load_sweep(sweep, ["train.start_from=~/teacher"]))
    check_backbones(plan)
    assert {trial.source for trial in plan.trials} == {os.path.realpath(folder)}
    assert {trial.train.start_from for trial in plan.trials} == {str(folder)}


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ("train.start_from=/no/such", r"backbone '/no/such' is not a diffusers pipeline"),
        (f"train.start_from={WEIGHTS / 'pixart'}", r"student start_from .*pixart' is not of the same family"),
        (
            f"train.start_from={WEIGHTS / 'unet-epsilon'}",
            r"student start_from .* predicts 'epsilon', its teacher .* predicts 'v_prediction': name one",
        ),
        (
            "backbones.pixart.start_timestep=900",
            r"start_timestep 900 is outside the schedule of .*, 1\.\.401",
        ),
        ("train.flow_shift=3", r"backbone \S+: flow_shift is a setting of flow matching"),
    ],
)
def test_settings_that_do_not_fit_the_backbone(
    change: str, pattern: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited("scheduler/scheduler_config.json", num_train_timesteps=401)(folder)
    sweep = written(tmp_path, SWEEP.replace("miniature/pixart", str(folder)))
    refused(capsys, pattern, sweep, "--storage", str(tmp_path / "results"), "--set", change)


@pytest.mark.usefixtures("no_ray")
def test_a_start_is_refused_for_several_steps_of_flow_matching(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SWEEP.replace("model: miniature/pixart", "model: miniature/sana, start_timestep: 800")
    pattern = (
        r"start_timestep 800 of 'pixart': in flow matching a student of 2 steps starts at pure noise: leave"
    )
    options = ["--storage", str(tmp_path / "results"), "--set", "train.student_steps=2"]
    refused(capsys, pattern, written(tmp_path, text), *options)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ("infer.pictures=8", r"backbone \S+: infer.attention_guidance has nasa alone"),
        ("train.nasa_interval=[0, 1]", r"backbone \S+: nasa_interval needs cross-attention"),
    ],
)
def test_nasa_is_refused_for_joint_attention(
    change: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SWEEP.replace("miniature/pixart", "miniature/sd3")
    text += "negative_prompts: {source: miniature:4}\n" if "nasa_interval" in change else ""
    refused(capsys, pattern, written(tmp_path, text), "--storage", str(tmp_path / "results"), "--set", change)
