"""Networks with random weights for `attention_cost`: published layouts, 512 wide, 256 image tokens."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    Flux2Transformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)

from workloads.backbones.prompts.conditioning import Conditioning

TEXT_WIDTH, POOLED_WIDTH, TOKENS = 768, 512, 77
Call = Callable[[Any, Conditioning], object]


def texts(name: str, rows: int) -> Conditioning:
    """Random prompts; a negative prompt in SANA is padded, and 5 of its tokens are not."""
    generator = torch.Generator().manual_seed(rows)
    embeddings = torch.randn(rows, TOKENS, TEXT_WIDTH, generator=generator)
    mask = (torch.arange(TOKENS) < (5 if rows == 1 else 20)).long().expand(rows, -1)
    pooled = torch.randn(rows, POOLED_WIDTH, generator=generator)
    return Conditioning(embeddings, mask if name == "sana" else None, pooled)


def sana() -> Any:
    return SanaTransformer2DModel(
        in_channels=32, num_attention_heads=16, attention_head_dim=32, num_layers=8,
        num_cross_attention_heads=8, cross_attention_head_dim=64, cross_attention_dim=512,
        caption_channels=TEXT_WIDTH, sample_size=16,
    )  # fmt: skip


def call_sana(network: Any, prompts: Conditioning) -> object:
    batch = len(prompts)
    latents, time = torch.ones(batch, 32, 16, 16), torch.full((batch,), 1000.0)
    return network(latents, prompts.embeddings, time, encoder_attention_mask=prompts.mask)


def sd3() -> Any:
    """Half of the layers with a second attention, as in SD3.5-medium."""
    return SD3Transformer2DModel(
        sample_size=32, num_layers=8, attention_head_dim=64, num_attention_heads=8,
        joint_attention_dim=TEXT_WIDTH, caption_projection_dim=512, pooled_projection_dim=POOLED_WIDTH,
        pos_embed_max_size=32, dual_attention_layers=(0, 1, 2, 3), qk_norm="rms_norm",
    )  # fmt: skip


def call_sd3(network: Any, prompts: Conditioning) -> object:
    latents, time = torch.ones(len(prompts), 16, 32, 32), torch.full((len(prompts),), 1000.0)
    return network(latents, prompts.embeddings, prompts.pooled, time)


def flux2() -> Any:
    """One double block to four single blocks, as in FLUX.2 klein 4B."""
    return Flux2Transformer2DModel(
        in_channels=128, num_layers=2, num_single_layers=8, attention_head_dim=128, num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH, guidance_embeds=False,
    )  # fmt: skip


def call_flux2(network: Any, prompts: Conditioning) -> object:
    zero, side = torch.arange(1), torch.arange(16)
    image_ids = torch.cartesian_prod(zero, side, side, zero)
    text_ids = torch.cartesian_prod(zero, zero, zero, torch.arange(TOKENS))
    latents, time = torch.ones(len(prompts), 256, 128), torch.ones(len(prompts))
    return network(latents, prompts.embeddings, time, image_ids, text_ids)


def z_image() -> Any:
    return ZImageTransformer2DModel(dim=512, n_layers=8, n_heads=4, n_kv_heads=4, cap_feat_dim=TEXT_WIDTH)


def call_z_image(network: Any, prompts: Conditioning) -> object:
    images = list(torch.ones(len(prompts), 16, 1, 32, 32))
    return network(images, torch.zeros(len(prompts)), list(prompts.embeddings))


SHAPES: dict[str, tuple[Callable[[], Any], Call]] = {
    "sana": (sana, call_sana),
    "sd3": (sd3, call_sd3),
    "flux2": (flux2, call_flux2),
    "z-image": (z_image, call_z_image),
}
"""The network and its call, by name."""
