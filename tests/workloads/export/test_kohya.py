"""LoRAs by kohya's names: equal to public lists, and read by diffusers as the LoRA that they are."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from tests.workloads.export.kohya_names import SD15_LAYERS, SDXL_LAYERS, WEIGHTS
from workloads.backbones.architectures import SHIPPED
from workloads.backbones.families import FAMILIES, Family, family_of
from workloads.export.kohya import FAMILIES as KOHYA_FAMILIES
from workloads.export.kohya import kohya_names
from workloads.export.lora import DOWN, UP, Lora


def family(name: str) -> Family:
    return family_of(str(SHIPPED / name))


def config(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((SHIPPED / name / "unet/config.json").read_text())
    return found


def unet(name: str) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = UNet2DConditionModel.from_config(config(name))
    return network


def lora_of(layers: list[str], rank: int = 2) -> Lora:
    """A LoRA on these layers, PART.LAYER, with values of its own for each."""
    tensors = {}
    for number, name in enumerate(layers, 1):
        tensors[name + DOWN] = torch.full((rank, 3), float(number))
        tensors[name + UP] = torch.full((3, rank), number + 0.5)
    return Lora(tensors, rank, exact=True)


@pytest.mark.parametrize("name", ["sd15", "sd21-base"])
def test_transformers_of_the_unet_have_all_names_of_a_public_file(name: str) -> None:
    adapted = [
        f"unet.{layer}"
        for layer, module in unet(name).named_modules()
        if ".attentions." in layer and isinstance(module, nn.Linear | nn.Conv2d)
    ]
    found = kohya_names(lora_of(adapted), family(name), config(name))
    assert set(found) == {layer + weight for layer in SD15_LAYERS for weight in WEIGHTS}


def test_sdxl_has_the_names_of_its_original_code() -> None:
    found = kohya_names(lora_of([f"unet.{name}" for name in SDXL_LAYERS]), family("sdxl"), config("sdxl"))
    assert set(found) == {layer + weight for layer in SDXL_LAYERS.values() for weight in WEIGHTS}


def test_text_encoders_have_their_prefixes() -> None:
    layer = "text_model.encoder.layers.3.mlp.fc1"
    one = kohya_names(lora_of([f"text_encoder.{layer}"]), family("sd15"), config("sd15"))
    assert "lora_te_text_model_encoder_layers_3_mlp_fc1.lora_up.weight" in one
    both = [f"text_encoder.{layer}", f"text_encoder_2.{layer}"]
    two = kohya_names(lora_of(both), family("sdxl"), config("sdxl"))
    assert {name.split("_text_model")[0] for name in two} == {"lora_te1", "lora_te2"}


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_diffusers_reads_every_layer_as_itself(name: str) -> None:
    """All layers that a whole student changes, with different ranks."""
    layers = [
        layer for layer, module in unet(name).named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    lora = lora_of([f"unet.{layer}" for layer in layers], rank=4)
    lora.tensors[f"unet.conv_out{DOWN}"] = lora.tensors[f"unet.conv_out{DOWN}"][:1]
    lora.tensors[f"unet.conv_out{UP}"] = lora.tensors[f"unet.conv_out{UP}"][:, :1]
    network = unet(name)
    pipeline = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    options = {"unet_config": network.config} if name == "sdxl" else {}
    read, alphas = pipeline.lora_state_dict(kohya_names(lora, family(name), config(name)), **options)
    assert set(alphas.values()) == {4.0} and len(read) == 2 * len(layers)
    from diffusers.utils import convert_unet_state_dict_to_peft

    read = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in read.items()})
    for layer in layers:
        layer = layer.replace(".processor", "")
        down, up = (read[f"{layer}.lora_{side}.weight"] for side in "AB")
        whole = (4 / len(down)) * up @ down
        torch.testing.assert_close(
            whole, lora.tensors[f"unet.{layer}{UP}"] @ lora.tensors[f"unet.{layer}{DOWN}"]
        )


def test_families_are_those_that_diffusers_reads() -> None:
    """SANA, SD3 and PixArt have no reader of such names, and FLUX.2's joins layers that are apart here."""
    assert set(KOHYA_FAMILIES) < {each.pipeline for each in FAMILIES if hasattr(diffusers, each.pipeline)}


def test_a_layer_that_sdxl_never_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the original code has not: 'down_blocks\.0\.other\.weight'"):
        kohya_names(lora_of(["unet.down_blocks.0.other"]), family("sdxl"), config("sdxl"))
