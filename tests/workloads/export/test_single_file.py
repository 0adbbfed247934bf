"""A student as one checkpoint: its names are the published ones, and it is refused where it does not fit."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES

from tests.support.small_published import LAYOUTS
from tests.support.toy_students import whole_student
from workloads.backbones.architectures import SHIPPED
from workloads.export.original_names import UNetLayout, autoencoder_weight, unet_weight
from workloads.export.single_file import single_file

PUBLISHED: dict[str, dict[str, tuple[int, ...] | None]] = {
    "sd15": {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 64),
        "model.diffusion_model.input_blocks.3.0.op.bias": (8,),
        "model.diffusion_model.middle_block.1.proj_in.weight": (32, 32, 1, 1),
        "model.diffusion_model.middle_block.2.emb_layers.1.weight": (32, 32),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (32, 32, 3, 3),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (32, 32, 3, 3),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (8, 16, 1, 1),
        "model.diffusion_model.out.2.weight": (4, 8, 3, 3),
        "model.diffusion_model.time_embed.2.weight": (32, 32),
        "first_stage_model.encoder.down.2.downsample.conv.weight": (16, 16, 3, 3),
        "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight": (16, 8, 1, 1),
        "first_stage_model.encoder.mid.attn_1.q.weight": (16, 16, 1, 1),
        "first_stage_model.decoder.mid.attn_1.proj_out.bias": (16,),
        "first_stage_model.decoder.mid.block_2.norm1.weight": (16,),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (16, 16, 3, 3),
        "first_stage_model.decoder.up.0.block.2.conv2.weight": (8, 8, 3, 3),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 64),
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight": (64, 64),
    },
    "sd21": {
        "model.diffusion_model.middle_block.1.proj_in.weight": (32, 32),
        "cond_stage_model.model.positional_embedding": (77, 64),
        "cond_stage_model.model.token_embedding.weight": None,
        "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight": (192, 64),
        "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias": (192,),
        "cond_stage_model.model.transformer.resblocks.0.attn.out_proj.weight": (64, 64),
        "cond_stage_model.model.transformer.resblocks.0.mlp.c_proj.weight": (64, 64),
        "cond_stage_model.model.transformer.resblocks.0.ln_2.bias": (64,),
        "cond_stage_model.model.ln_final.weight": (64,),
    },
    "sdxl": {
        "model.diffusion_model.label_emb.0.0.weight": (32, 120),
        "model.diffusion_model.input_blocks.8.1.transformer_blocks.1.attn1.to_q.weight": (32, 32),
        "model.diffusion_model.output_blocks.5.2.conv.bias": (16,),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (64,),
        "conditioner.embedders.1.model.transformer.resblocks.2.mlp.c_fc.weight": (64, 48),
        "conditioner.embedders.1.model.text_projection": (48, 24),
        "conditioner.embedders.1.model.ln_final.bias": (48,),
    },
}
"""Names in the published checkpoints of the three, with the shapes that the toys have there."""
COUNTS = {"sd15": 686, "sd21-base": 686, "sdxl": 1680}
"""Weights of the UNet in the published checkpoints."""


@pytest.fixture(scope="module", params=LAYOUTS)
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Layout and folder of a whole student."""
    folder = tmp_path_factory.mktemp("single")
    LAYOUTS[request.param](folder / "teacher")
    whole_student(folder / "teacher", folder / "student")
    return request.param, folder / "student"


def test_names_and_shapes_are_the_published_ones(student: tuple[str, Path]) -> None:
    name, folder = student
    found = single_file(folder)
    for key, shape in PUBLISHED[name].items():
        assert shape is None or tuple(found[key].shape) == shape, key
        assert key in found
    tops = {"sdxl": "conditioner"}.get(name, "cond_stage_model")
    assert {key.split(".")[0] for key in found} == {"model", "first_stage_model", tops}
    assert CHECKPOINT_KEY_NAMES["inpainting"] in found
    unet = [value.dtype for key, value in found.items() if key.startswith("model.")]
    assert set(unet) == {torch.float16}, "as the student's folder"


@pytest.mark.parametrize("name", COUNTS)
def test_published_networks_have_a_name_for_every_weight(name: str) -> None:
    config = json.loads((SHIPPED / name / "unet/config.json").read_text())
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
        vae = AutoencoderKL.from_config(json.loads((SHIPPED / name / "vae/config.json").read_text()))
    names = {unet_weight(key, UNetLayout.of(config)) for key in unet.state_dict()}
    assert len(names) == len(unet.state_dict()) == COUNTS[name]
    of_vae = {autoencoder_weight(key, 4) for key in vae.state_dict()}
    assert len(of_vae) == len(vae.state_dict()) == 248


def test_layers_of_other_networks_are_refused() -> None:
    layout = UNetLayout(2, (True, True))
    for name in ("down_blocks.0.motion_modules.0.norm.weight", "encoder_hid_proj.weight", "mid_block.x.0.y"):
        with pytest.raises(KeyError):
            unet_weight(name, layout)
    with pytest.raises(ValueError, match="blocks of different depths"):
        UNetLayout.of({"layers_per_block": [1, 2], "up_block_types": []})
