"""Backbones of flow matching, and PixArt-Sigma, at their published sizes on the meta device.

Where exact sizes are known: klein's file has 7,751,109,744 bytes, of 3,875,544,576 parameters in bfloat16 and
a header; the index of Z-Image-Turbo, whose network is the same, says 12,309,817,472 bytes for 6,154,908,736.
Others have counted SD3.5-medium, SANA-1.5 and both new autoencoders. SANA 0.6B and 1.6B are known to 591.7 M
and 1,604 M.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from tests.workloads.backbones import architectures
from workloads.attention.guidance import cross_attention_layers
from workloads.backbones.architectures import architecture_of
from workloads.backbones.autoencoders import AUTOENCODERS
from workloads.backbones.backbone import network_kind
from workloads.backbones.shape_checks import encoder_constructor
from workloads.layers.adapted_layer import AdaptedLayer
from workloads.layers.lora import AdapterSet
from workloads.layers.transformer_blocks import compile_blocks, transformer_blocks
from workloads.settings.train import LoraSettings
from workloads.students.schedulers import one_step_scheduler


@dataclass(frozen=True)
class Published:
    """Facts about a backbone, from its published weights or from texts about them."""

    parameters: int
    tensors: int
    encoders: tuple[int, ...]
    """Numbers of parameters of the text encoders."""
    autoencoder: int
    """Number of its parameters."""
    latents: tuple[int, int, int]
    scale: int
    """Pixels per side of one latent."""
    embeddings: tuple[int, int]
    """Shape of one prompt's embeddings."""
    blocks: int
    adapted: int
    """Layers named to_q and to_v."""


CLIP_L, CLIP_G, T5_XXL = 123_650_304, 694_659_840, 4_762_310_656
GEMMA2, QWEN3 = 2_614_341_888, 4_022_468_096
KL, KL_16, KL_FLUX2, DC = 83_653_863, 83_819_683, 84_046_115, 312_250_275
# fmt: off
PUBLISHED = {
    "sana-600m": Published(
        591_747_872, 548, (GEMMA2,), DC, (32, 32, 32), 32, (300, 2304), 28, 4 * 28
    ),
    "sana-1600m": Published(
        1_604_462_752, 396, (GEMMA2,), DC, (32, 32, 32), 32, (300, 2304), 20, 4 * 20
    ),
    "sd35-medium": Published(
        2_243_171_520, 909, (CLIP_L, CLIP_G, T5_XXL), KL_16, (16, 128, 128), 8, (333, 4096), 24, 2 * (24 + 13)
    ),
    "flux2-klein-4b": Published(
        3_875_544_576, 169, (QWEN3,), KL_FLUX2, (128, 64, 64), 16, (512, 7680), 25, 2 * 5
    ),
    "z-image": Published(
        6_154_908_736, 521, (QWEN3,), KL_16, (16, 128, 128), 8, (512, 2560), 34, 2 * 34
    ),
    "pixart-sigma-512": Published(
        610_856_096, 603, (T5_XXL,), KL, (4, 64, 64), 8, (300, 4096), 28, 4 * 28
    ),
}
# fmt: on
ENTRIES = {
    "Efficient-Large-Model/Sana_600M_512px_diffusers": (591_747_872, {"sample_size": 16}),
    "Efficient-Large-Model/Sana_1600M_512px_diffusers": (1_604_462_752, {"sample_size": 16}),
    "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers": (1_604_641_952, {"sample_size": 32}),
    "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS": (610_856_096, {"sample_size": 128, "interpolation_scale": 2}),
}
"""Published ids that differ from their shipped folder."""
every = pytest.mark.parametrize("name", PUBLISHED)
flow = pytest.mark.parametrize("name", architectures.FLOW_NAMES)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every
def test_weights_match_published_sizes(name: str) -> None:
    backbone, published = architectures.build(name), PUBLISHED[name]
    assert parameters(backbone.network) == published.parameters
    assert len(backbone.network.state_dict()) == published.tensors
    assert (backbone.latent_shape, backbone.latent_scale) == (published.latents, published.scale)
    kind: Any = AUTOENCODERS[backbone.family.autoencoder].model
    with torch.device("meta"):
        assert parameters(kind.from_config(architectures.config(name, "vae"))) == published.autoencoder


@pytest.mark.parametrize("source", ENTRIES)
def test_ids_differ_from_their_folder(source: str) -> None:
    found, (count, entries) = architecture_of(source), ENTRIES[source]
    assert found is not None
    kind: Any = network_kind(found.family).model
    with torch.device("meta"):
        network = kind.from_config(json.loads(found.network))
    assert parameters(network) == count
    assert {key: network.config[key] for key in entries} == entries


@every
def test_text_encoders_match_published_sizes(name: str) -> None:
    backbone = architectures.build(name)
    with torch.device("meta"):
        encoders = [
            encoder_constructor(kind)(architectures.config(name, part))
            for part, kind in backbone.family.text_encoders
        ]
    assert tuple(map(parameters, encoders)) == PUBLISHED[name].encoders
    assert architectures.conditioning(backbone, 1).embeddings.shape[1:] == PUBLISHED[name].embeddings


@flow
def test_schedule_ends_in_pure_noise(name: str) -> None:
    backbone = architectures.build(name)
    schedule = backbone.schedule
    assert len(schedule) == 1000 and schedule.is_flow and backbone.start_timestep == 999
    ends = [table[999].item() for table in (schedule.alpha, schedule.sigma, schedule.time)]
    assert ends == [0, 1, 1000]


@flow
def test_one_step_scheduler_starts_at_pure_noise(name: str) -> None:
    scheduler = one_step_scheduler(architectures.build(name))
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [1000] and scheduler.sigmas.tolist() == [1, 0]


@every
def test_prediction_has_latent_shape(name: str) -> None:
    backbone = architectures.build(name)
    output = architectures.called_on_meta(backbone)
    assert output.shape == (2, *backbone.latent_shape) and output.dtype == torch.float32 and output.is_meta


@every
@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("all",)], ids="-".join)
def test_lora_adapts_target_layers(name: str, targets: tuple[str, ...]) -> None:
    network = architectures.build(name).network
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]
    with torch.device("meta"):
        AdapterSet(network, LoraSettings(rank=4, targets=targets))
    adapted = [layer for layer in network.modules() if isinstance(layer, AdaptedLayer)]
    assert len(adapted) == (len(layers) if "all" in targets else PUBLISHED[name].adapted)


@every
def test_every_block_is_compiled(name: str) -> None:
    network = architectures.build(name).network
    compile_blocks(network)
    compiled = [layer for layer in network.modules() if layer._compiled_call_impl is not None]
    assert compiled == transformer_blocks(network) and len(compiled) == PUBLISHED[name].blocks


@pytest.mark.parametrize("name", ["sana-600m", "sana-1600m", "pixart-sigma-512"])
def test_cross_attention_is_found(name: str) -> None:
    assert len(cross_attention_layers(architectures.build(name).network)) == PUBLISHED[name].blocks
