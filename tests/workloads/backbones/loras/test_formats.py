"""A teacher with a LoRA in each format equals what diffusers and peft make of the same file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.lora_files import (
    ATTENTION,
    NETWORK_TARGETS,
    TEXT_TARGETS,
    config,
    diffusers_file,
    factors,
    kohya_file,
    network_of,
    opened,
    peft_folder,
)
from tests.support.teacher_layouts import FAMILIES
from workloads.backbones.backbone import load_backbone
from workloads.backbones.loras.entry import Lora
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.backbones.teacher_pipeline import generate_images, open_pipeline

PROMPTS = ["a large red circle", "a cross"]
SDXL_BLOCKS = {
    "down_blocks.1.attentions.0.": "input_blocks.3.1.",
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.1.resnets.0.": "input_blocks.3.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.resnets.1.": "middle_block.2.",
    "up_blocks.0.attentions.0.": "output_blocks.0.1.",
    "up_blocks.0.attentions.1.": "output_blocks.1.1.",
    "up_blocks.0.resnets.0.": "output_blocks.0.0.",
    "up_blocks.0.resnets.1.": "output_blocks.1.0.",
    "up_blocks.1.resnets.0.": "output_blocks.2.0.",
    "up_blocks.1.resnets.1.": "output_blocks.3.0.",
    ".conv1": ".in_layers.2",
    ".time_emb_proj": ".emb_layers.1",
}
"""Original names of the blocks of a UNet with one residual block a level; kohya's SDXL has them."""


@pytest.fixture(scope="session")
def source_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the toy teacher of a family once."""
    made: dict[str, Path] = {}

    def write(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("teacher") / family
            {**FAMILIES, **FLOW_FAMILIES}[family](made[family])
        return made[family]

    return write


def drawn(pipeline: Any) -> Tensor:
    return generate_images(pipeline, PROMPTS, steps=2, guidance_scale=2.0)


def ours(source: Path, *loras: Lora) -> Tensor:
    return drawn(open_pipeline(str(source), loras=loras))


def check(source: Path, lora: Lora, stock: Any) -> None:
    """Pictures equal those of the stock pipeline to float32 rounding, and differ from the plain teacher's."""
    mine, theirs, plain = ours(source, lora), drawn(stock), ours(source)
    assert (mine - plain).abs().max() > 0.02
    assert (mine - theirs).abs().max() < 2e-3 * (mine - plain).abs().max()


def settings(family: str) -> dict[str, Any]:
    """Settings of each component to which stock diffusers gives a LoRA; alpha differs from the rank."""
    if family == "sdxl":
        text = {"text_encoder": config(TEXT_TARGETS), "text_encoder_2": config(TEXT_TARGETS, r=2)}
        return {"unet": config(NETWORK_TARGETS, lora_alpha=5), **text}
    if family in ("sd15", "sd21"):
        return {
            "unet": config(NETWORK_TARGETS, lora_alpha=5),
            "text_encoder": config(TEXT_TARGETS, lora_alpha=1),
        }
    if family == "sd3":
        text = {"text_encoder": config(TEXT_TARGETS), "text_encoder_2": config(TEXT_TARGETS)}
        return {"transformer": config([*ATTENTION, "add_k_proj", "ff.net.0.proj"], lora_alpha=2), **text}
    more = ["to_qkv_mlp_proj", "x_embedder"] if family == "klein" else []
    return {"transformer": config([*ATTENTION, *more], lora_alpha=4)}


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl", "sd3", "sana", "klein", "z-image"])
def test_diffusers_format(family: str, source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of(family)
    folder = diffusers_file(source, tmp_path / "lora", settings(family))
    stock = opened(source)
    stock.load_lora_weights(folder, adapter_name="style")
    stock.set_adapters("style", 0.5)
    check(source, Lora(str(folder), 0.5), stock)


@pytest.mark.parametrize("prefix", ["", "transformer.", "lora_unet_", "lora_transformer_"])
def test_pixart_has_no_loader_in_diffusers(
    prefix: str, source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its pipeline there reads no LoRA, so files of other tools differ in the prefix; all equal peft's."""
    source, chosen = source_of("pixart-sigma"), config(["to_q", "to_out.0", "proj_out"])
    folder = peft_folder(source, tmp_path / "peft", "transformer", chosen)
    stock = opened(source)
    PeftModel.from_pretrained(stock.transformer, folder)
    flat = prefix.startswith("lora")
    tensors = {}
    for name, value in load_file(folder / "adapter_model.safetensors").items():
        layer, _, end = name.removeprefix("base_model.model.").rpartition(".lora_")
        end = end.replace("A.", "down.").replace("B.", "up.") if flat else end
        tensors[f"{prefix}{layer.replace('.', '_') if flat else layer}.lora_{end}"] = value
    save_file(tensors, tmp_path / "style.safetensors")
    check(source, Lora(str(tmp_path / "style.safetensors")), stock)


@pytest.mark.parametrize("family", ["sd15", "pixart", "sd3"])
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_format(family: str, rslora: bool, source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of(family)
    part = network_of(source)
    options = {"rank_pattern": {"attn1.to_k": 2, "attn.to_k": 2}, "alpha_pattern": {"to_v": 9}}
    chosen = config(ATTENTION, lora_alpha=5, use_rslora=rslora, **options)
    folder = peft_folder(source, tmp_path / "lora", part, chosen)
    stock = opened(source)
    PeftModel.from_pretrained(getattr(stock, part), folder)
    check(source, Lora(str(folder)), stock)


def test_peft_folders_of_each_component(source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of("sdxl")
    stock = opened(source)
    for part, targets in {
        "unet": ATTENTION,
        "text_encoder": TEXT_TARGETS,
        "text_encoder_2": TEXT_TARGETS,
    }.items():
        peft_folder(source, tmp_path / part, part, config(targets, lora_alpha=2))
        PeftModel.from_pretrained(getattr(stock, part), tmp_path / part)
    check(source, Lora(str(tmp_path)), stock)


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of a CLIP encoder's layers in files, which some versions of transformers shorten."""
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_kohya_format(family: str, source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of(family)
    targets = [*ATTENTION, "proj_in", "ff.net.2", "conv1"]
    prefixes = {"unet": "lora_unet", "text_encoder": "lora_te" if family == "sd15" else "lora_te1"}
    if family == "sdxl":
        prefixes["text_encoder_2"] = "lora_te2"
    parts = {}
    for part, prefix in prefixes.items():
        state = factors(source, part, config(targets if part == "unet" else TEXT_TARGETS))
        clip = {
            n if n.startswith(("text_model", "down", "mid", "up")) else f"text_model.{n}": v
            for n, v in state.items()
        }
        parts[part] = (prefix, clip)
    names = SDXL_BLOCKS if family == "sdxl" else {}
    file = kohya_file(tmp_path / "style.safetensors", parts, 1.5, names)
    stock = opened(source)
    stock.load_lora_weights(tmp_path, weight_name=file.name)
    check(source, Lora(str(file)), stock)


def test_weights_add_up(source_of: Callable[[str], Path], tmp_path: Path) -> None:
    """W + sum_i w_i s_i B_i A_i, computed in float64 from the files' factors."""
    source = source_of("sd15")
    first = diffusers_file(source, tmp_path / "a", {"unet": config(["to_q"], r=2, lora_alpha=6)})
    second = diffusers_file(source, tmp_path / "b", {"unet": config(["to_q", "to_k"], r=4, lora_alpha=4)})
    loras = (Lora(str(first), 0.5), Lora(str(second), -2.0))
    found = load_backbone(str(source), loras=loras).network.state_dict()
    plain = load_backbone(str(source)).network.state_dict()
    stems = [name.removesuffix(".weight") for name in plain if name.endswith(("to_q.weight", "to_k.weight"))]
    files = [
        (load_file(first / "pytorch_lora_weights.safetensors"), 0.5 * 3),
        (load_file(second / "pytorch_lora_weights.safetensors"), -2.0),
    ]
    assert stems
    for stem in stems:
        expected = plain[f"{stem}.weight"].double()
        for tensors, scale in files:
            if f"unet.{stem}.lora_A.weight" in tensors:
                down, up = (tensors[f"unet.{stem}.lora_{one}.weight"].double() for one in "AB")
                expected = expected + scale * up @ down
        torch.testing.assert_close(found[f"{stem}.weight"].double(), expected, rtol=1e-6, atol=1e-6)
    others = [name for name in plain if name.removesuffix(".weight") not in stems]
    assert all(torch.equal(plain[name], found[name]) for name in others)


def test_half_precision_is_rounded_once(source_of: Callable[[str], Path], tmp_path: Path) -> None:
    source = source_of("sd15")
    loras = (Lora(str(diffusers_file(source, tmp_path, {"unet": config(ATTENTION)}))),)
    exact = load_backbone(str(source), loras=loras).network.state_dict()
    half = load_backbone(str(source), loras=loras, dtype=torch.bfloat16).network.state_dict()
    assert all(torch.equal(exact[name].to(half[name].dtype), half[name]) for name in exact)


def test_embeddings_and_their_digest_follow_the_text_encoder(
    source_of: Callable[[str], Path], tmp_path: Path
) -> None:
    source = str(source_of("sd15"))
    text = Lora(str(diffusers_file(Path(source), tmp_path / "a", {"text_encoder": config(TEXT_TARGETS)})))
    network = Lora(str(diffusers_file(Path(source), tmp_path / "b", {"unet": config(ATTENTION)})))
    plain, changed = (TextEncoder(source, loras=each).encode(PROMPTS).embeddings for each in ((), (text,)))
    assert (plain - changed).abs().max() > 0.01
    assert torch.equal(plain, TextEncoder(source, loras=(network,)).encode(PROMPTS).embeddings)
    digests = [
        encoder_digest(source, loras=each) for each in ((), (network,), (text,), (Lora(text.path, 0.5),))
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3
