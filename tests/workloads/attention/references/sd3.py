"""Stable Diffusion 3's transformer for one sample, with one image stream and two text streams."""

from typing import Any

import torch
from torch import Tensor

from tests.workloads.attention.references.formulas import (
    Heads,
    gelu,
    image_rows,
    layer_norm,
    linear,
    rms_norm,
    silu,
    softmax_attention,
    split_heads,
    text_rows,
)
from workloads.settings.train import AttentionGuidanceSettings

Text = tuple[Tensor, Tensor]
"""Embeddings (n, D) and pooled embedding (P,)."""


def forward(
    network: Any,
    latents: Tensor,
    timestep: Tensor,
    prompt: Text,
    negative: Text | None = None,
    settings: AttentionGuidanceSettings | None = None,
) -> Tensor:
    """Return the output (C, H, W)."""
    image = network.pos_embed(latents[None])[0]
    embedding = network.time_text_embed(timestep[None], prompt[1][None])[0]
    texts = [linear(network.context_embedder, prompt[0])]
    embeddings = [embedding]
    if negative is not None and settings is not None:
        own = (
            embedding
            if settings.kind == "vsf"
            else network.time_text_embed(timestep[None], negative[1][None])[0]
        )
        texts.append(linear(network.context_embedder, negative[0]))
        embeddings.append(own)
    for block in network.transformer_blocks:
        image, texts = one_block(block, image, texts, embeddings, settings)
    scale, shift = linear(network.norm_out.linear, silu(embedding)).chunk(2)
    patches = linear(network.proj_out, layer_norm(image) * (1 + scale) + shift)
    side, size = round(len(patches) ** 0.5), network.config.patch_size
    rows = [
        torch.cat([p.view(size, size, -1) for p in patches[side * r : side * r + side]], 1)
        for r in range(side)
    ]
    return torch.cat(rows, 0).permute(2, 0, 1)


def one_block(
    block: Any, image: Tensor, texts: list[Tensor], embeddings: list[Tensor], settings: Any
) -> tuple[Tensor, list[Tensor]]:
    attn, last = block.attn, block.context_pre_only
    parts = linear(block.norm1.linear, silu(embeddings[0])).chunk(9 if block.use_dual_attention else 6)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts[:6]
    normed = layer_norm(image)
    of_image = heads(attn, normed * (1 + scale) + shift, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
    modulations, of_texts = [], []
    for text, embedding in zip(texts, embeddings, strict=True):
        values = linear(block.norm1_context.linear, silu(embedding)).chunk(2 if last else 6)
        text_scale, text_shift = (values[0], values[1]) if last else (values[1], values[0])
        modulated = layer_norm(text) * (1 + text_scale) + text_shift
        names = ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
        of_texts.append(heads(attn, modulated, *names))
        modulations.append(values[2:])
    guided = image_rows(settings, of_image, of_texts[0], of_texts[1] if len(of_texts) > 1 else None)
    image = image + gate * linear(attn.to_out[0], guided)
    if block.use_dual_attention:
        second = normed * (1 + parts[7]) + parts[6]
        own = heads(block.attn2, second, ("to_q", "to_k", "to_v"), ("norm_q", "norm_k"))
        image = image + parts[8] * linear(block.attn2.to_out[0], softmax_attention(*own))
    image = image + mlp_gate * mlp(block.ff, layer_norm(image) * (1 + mlp_scale) + mlp_shift)
    if last:
        return image, []
    evolved = []
    for text, own, (gate, mlp_shift, mlp_scale, mlp_gate) in zip(texts, of_texts, modulations, strict=True):
        text = text + gate * linear(attn.to_add_out, text_rows(of_image, own))
        inner = layer_norm(text) * (1 + mlp_scale) + mlp_shift
        evolved.append(text + mlp_gate * mlp(block.ff_context, inner))
    return image, evolved


def mlp(layer: Any, x: Tensor) -> Tensor:
    return linear(layer.net[2], gelu(linear(layer.net[0].proj, x)))


def heads(attn: Any, x: Tensor, layers: tuple[str, str, str], norms: tuple[str, str]) -> Heads:
    q, k, v = (split_heads(linear(getattr(attn, name), x), attn.heads) for name in layers)
    q, k = (rms_norm(getattr(attn, name), part, 1e-6) for name, part in zip(norms, (q, k), strict=True))
    return Heads(q, k, v)
