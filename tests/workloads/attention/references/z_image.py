"""Z-Image's transformer for one sample, with one image stream and two text streams to the end."""

from typing import Any

import torch
from torch import Tensor

from tests.workloads.attention.references.formulas import (
    Heads,
    image_rows,
    layer_norm,
    linear,
    rms_norm,
    rotate,
    silu,
    softmax_attention,
    split_heads,
    text_rows,
    turns,
)
from workloads.settings.train import AttentionGuidanceSettings


def forward(
    network: Any,
    latents: Tensor,
    time: Tensor,
    prompt: Tensor,
    negative: Tensor | None = None,
    settings: AttentionGuidanceSettings | None = None,
) -> Tensor:
    """Return the output (C, H, W) for latents of the same shape, from prompts without padding."""
    axes = (network.axes_dims, network.rope_theta)
    embedding = network.t_embedder(time[None] * network.t_scale)[0]
    channels, side, _ = latents.shape
    count = (side // 2) ** 2
    patches = latents.view(channels, side // 2, 2, side // 2, 2).permute(1, 3, 2, 4, 0).reshape(count, -1)
    image = padded(linear(network.all_x_embedder["2-1"], patches), network.x_pad_token)
    texts, rotary = [], []
    for text in (prompt, negative):
        if text is None:
            continue
        embedded = linear(network.cap_embedder[1], rms_norm(network.cap_embedder[0], text, 1e-5))
        texts.append(padded(embedded, network.cap_pad_token))
        rotary.append(turns([(1 + place, 0, 0) for place in range(len(texts[-1]))], *axes))
    first = len(texts[0]) + 1
    places = [(first, row, column) for row in range(side // 2) for column in range(side // 2)]
    image_rotary = turns(places + [(0, 0, 0)] * (len(image) - count), *axes)
    for block in network.noise_refiner:
        own = heads(block, image, embedding, image_rotary)
        image = rest(block, image, embedding, softmax_attention(*own))
    for block in network.context_refiner:
        texts = [
            rest(block, text, None, softmax_attention(*heads(block, text, None, place)))
            for text, place in zip(texts, rotary, strict=True)
        ]
    for block in network.layers:
        own = heads(block, image, embedding, image_rotary)
        streams = [heads(block, t, embedding, place) for t, place in zip(texts, rotary, strict=True)]
        guided = image_rows(settings, own, streams[0], streams[1] if len(streams) > 1 else None)
        image = rest(block, image, embedding, guided)
        texts = [
            rest(block, text, embedding, text_rows(own, stream))
            for text, stream in zip(texts, streams, strict=True)
        ]
    final = network.all_final_layer["2-1"]
    scale = linear(final.adaLN_modulation[1], silu(embedding))
    out = linear(final.linear, layer_norm(image) * (1 + scale))[:count]
    grid = out.view(side // 2, side // 2, 2, 2, channels)
    return grid.permute(4, 0, 2, 1, 3).reshape(channels, side, side)


def padded(states: Tensor, token: Tensor) -> Tensor:
    return torch.cat([states, *[token] * (-len(states) % 32)])


def modulation(block: Any, embedding: Tensor | None) -> tuple[Any, Any, Any, Any]:
    if embedding is None:
        return 1.0, 1.0, 1.0, 1.0
    scale, gate, mlp_scale, mlp_gate = linear(block.adaLN_modulation[0], embedding).chunk(4)
    return 1 + scale, torch.tanh(gate), 1 + mlp_scale, torch.tanh(mlp_gate)


def heads(block: Any, x: Tensor, embedding: Tensor | None, place: Tensor) -> Heads:
    attn = block.attention
    inner = rms_norm(block.attention_norm1, x, 1e-5) * modulation(block, embedding)[0]
    q, k, v = (split_heads(linear(layer, inner), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v))
    q, k = rms_norm(attn.norm_q, q, 1e-5), rms_norm(attn.norm_k, k, 1e-5)
    return Heads(rotate(q, place), rotate(k, place), v)


def rest(block: Any, x: Tensor, embedding: Tensor | None, attended: Tensor) -> Tensor:
    """The block after its attention."""
    _, gate, mlp_scale, mlp_gate = modulation(block, embedding)
    x = x + gate * rms_norm(block.attention_norm2, linear(block.attention.to_out[0], attended), 1e-5)
    inner = rms_norm(block.ffn_norm1, x, 1e-5) * mlp_scale
    layer = block.feed_forward
    wide = silu(linear(layer.w1, inner)) * linear(layer.w3, inner)
    out: Tensor = x + mlp_gate * rms_norm(block.ffn_norm2, linear(layer.w2, wide), 1e-5)
    return out
