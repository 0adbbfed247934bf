"""Toys of the networks with joint attention, and calls of them as stock pipelines call them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Flux2Transformer2DModel, SD3Transformer2DModel, ZImageTransformer2DModel
from torch import Tensor, nn

import tests.workloads.attention.references.flux2 as flux2
import tests.workloads.attention.references.sd3 as sd3
import tests.workloads.attention.references.z_image as z_image
from workloads.backbones.prompts.conditioning import Conditioning

WIDTH, POOLED, TOKENS, LENGTHS = 12, 10, 36, (36, 33, 5)
"""Text width, pooled width, tokens of a prompt; tokens of each prompt where they may differ."""


@dataclass(frozen=True)
class Toy:
    """A network with the two ways to run it: as stock pipelines do, and by its reference."""

    name: str
    network: Any
    call: Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
    """(network, latents (B, 4, 8, 8), time (B,) in [0, 1], prompts) -> (B, 4, 8, 8)."""
    reference: Callable[..., Tensor]
    """(network, latents (4, 8, 8), time (), prompt, negative or None, settings) -> (4, 8, 8), in float64."""
    exact: bool = False
    """Whether the stock network computes in float64 throughout; RMSNorm and RoPE of diffusers do not."""


def texts(seed: int, rows: int = 3, tokens: int = TOKENS, mask: bool = False) -> Conditioning:
    """Random text embeddings; with `mask` of different lengths, padded with large numbers."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, tokens, WIDTH, generator=generator)
    pooled = torch.randn(rows, POOLED, generator=generator)
    keep = None
    if mask:
        keep = (torch.arange(tokens)[None] < torch.tensor(LENGTHS[:rows])[:, None]).long()
        embeddings = torch.where(keep.bool()[..., None], embeddings, 9.0)
    return Conditioning(embeddings, keep, pooled)


def row(conditioning: Conditioning, index: int) -> tuple[Tensor, Tensor]:
    """Embeddings without padding (n, D) and pooled embedding of one row, in float64."""
    index = index if len(conditioning) > 1 else 0
    embeddings = conditioning.embeddings[index]
    if conditioning.mask is not None:
        embeddings = embeddings[conditioning.mask[index].bool()]
    assert conditioning.pooled is not None
    return embeddings.double(), conditioning.pooled[index].double()


def random_weights(network: nn.Module, seed: int = 0) -> Any:
    """Draw every parameter, biases, norms and pad tokens included, so that none is at a special value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.dim() > 1 and "pad_token" not in name
            noise *= parameter.shape[-1] ** -0.5 if matrix else 0.3
            parameter.copy_(1 + noise if "norm" in name and not matrix else noise)
    return network.eval()


def sd3_network(qk_norm: str | None = "rms_norm") -> Any:
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16,
        pooled_projection_dim=POOLED, pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm=qk_norm,
    )  # fmt: skip
    return random_weights(network)


def flux2_network() -> Any:
    network = Flux2Transformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, timestep_guidance_channels=16, mlp_ratio=2.0,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    return random_weights(network)


def z_image_network() -> Any:
    network = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[128, 16, 16],
    )  # fmt: skip
    return random_weights(network)


def call_sd3(network: Any, latents: Tensor, time: Tensor, prompts: Conditioning) -> Tensor:
    output: Tensor = network(
        hidden_states=latents,
        timestep=time * 1000,
        encoder_hidden_states=prompts.embeddings.to(latents.dtype),
        pooled_projections=prompts.parts["pooled"].to(latents.dtype),
        joint_attention_kwargs=None,
        return_dict=False,
    )[0]
    return output


def call_flux2(network: Any, latents: Tensor, time: Tensor, prompts: Conditioning) -> Tensor:
    batch, channels, side, _ = latents.shape
    zero, text = torch.arange(1), prompts.embeddings.to(latents.dtype)
    image_ids = torch.cartesian_prod(zero, torch.arange(side), torch.arange(side), zero)
    text_ids = torch.cartesian_prod(zero, zero, zero, torch.arange(text.shape[1]))
    tokens = network(
        hidden_states=latents.flatten(2).transpose(1, 2),
        timestep=time,
        guidance=None,
        encoder_hidden_states=text,
        txt_ids=text_ids.expand(batch, -1, -1),
        img_ids=image_ids.expand(batch, -1, -1),
        joint_attention_kwargs=None,
        return_dict=False,
    )[0]
    return tokens.transpose(1, 2).reshape(batch, channels, side, side)  # type: ignore[no-any-return]


def call_z_image(network: Any, latents: Tensor, time: Tensor, prompts: Conditioning) -> Tensor:
    embeddings = prompts.embeddings.to(latents.dtype)
    rows = (
        embeddings
        if prompts.mask is None
        else [e[m.bool()] for e, m in zip(embeddings, prompts.mask, strict=True)]
    )
    outputs = network([image[:, None] for image in latents], time, list(rows), return_dict=False)[0]
    return torch.stack(list(outputs))[:, :, 0]


def refer_flux2(
    network: Any, latents: Tensor, time: Tensor, prompt: Any, negative: Any, settings: Any
) -> Tensor:
    channels, side, _ = latents.shape
    texts = (prompt[0], None if negative is None else negative[0])
    tokens = flux2.forward(network, latents.flatten(1).T, time, side, *texts, settings)
    return tokens.T.reshape(channels, side, side)


def refer_z_image(
    network: Any, latents: Tensor, time: Tensor, prompt: Any, negative: Any, settings: Any
) -> Tensor:
    return z_image.forward(
        network, latents, time, prompt[0], None if negative is None else negative[0], settings
    )


def refer_sd3(
    network: Any, latents: Tensor, time: Tensor, prompt: Any, negative: Any, settings: Any
) -> Tensor:
    return sd3.forward(network, latents, time * 1000, prompt, negative, settings)


TOYS: dict[str, Callable[[], Toy]] = {
    "sd3": lambda: Toy("sd3", sd3_network(None), call_sd3, refer_sd3, exact=True),
    "sd3.5": lambda: Toy("sd3.5", sd3_network(), call_sd3, refer_sd3),
    "flux2": lambda: Toy("flux2", flux2_network(), call_flux2, refer_flux2),
    "z-image": lambda: Toy("z-image", z_image_network(), call_z_image, refer_z_image),
}
