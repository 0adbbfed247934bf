"""FLUX.2's transformer for one sample, with one image stream and two text streams to the end."""

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
    split_heads,
    text_rows,
    turns,
)
from workloads.settings.train import AttentionGuidanceSettings


def forward(
    network: Any,
    tokens: Tensor,
    time: Tensor,
    side: int,
    prompt: Tensor,
    negative: Tensor | None = None,
    settings: AttentionGuidanceSettings | None = None,
) -> Tensor:
    """Return the output (I, C) for an image of `side` x `side` tokens."""
    config = network.config
    embedding = silu(network.time_guidance_embed(time[None] * 1000, None)[0])
    image = linear(network.x_embedder, tokens)
    texts = [linear(network.context_embedder, text) for text in (prompt, negative) if text is not None]
    places = [(0, row, column, 0) for row in range(side) for column in range(side)]
    axes = (config.axes_dims_rope, config.rope_theta)
    rotary = turns(places, *axes)
    text_rotary = [turns([(0, 0, 0, place) for place in range(len(text))], *axes) for text in texts]
    for block in network.transformer_blocks:
        modulation = (
            linear(network.double_stream_modulation_img.linear, embedding).chunk(6),
            linear(network.double_stream_modulation_txt.linear, embedding).chunk(6),
        )
        image, texts = double(block, image, texts, modulation, rotary, text_rotary, settings)
    for block in network.single_transformer_blocks:
        parts = linear(network.single_stream_modulation.linear, embedding).chunk(3)
        image, texts = single(block, image, texts, parts, rotary, text_rotary, settings)
    scale, shift = linear(network.norm_out.linear, embedding).chunk(2)
    return linear(network.proj_out, layer_norm(image) * (1 + scale) + shift)


def double(
    block: Any,
    image: Tensor,
    texts: list[Tensor],
    modulation: Any,
    rotary: Tensor,
    text_rotary: Any,
    settings: Any,
) -> tuple[Tensor, list[Tensor]]:
    attn = block.attn
    (shift, scale, gate, mlp_shift, mlp_scale, mlp_gate), of_text = modulation
    names = ("to_q", "to_k", "to_v"), ("norm_q", "norm_k")
    own = heads(attn, layer_norm(image) * (1 + scale) + shift, *names, rotary)
    names = ("add_q_proj", "add_k_proj", "add_v_proj"), ("norm_added_q", "norm_added_k")
    streams = [
        heads(attn, layer_norm(text) * (1 + of_text[1]) + of_text[0], *names, place)
        for text, place in zip(texts, text_rotary, strict=True)
    ]
    guided = image_rows(settings, own, streams[0], streams[1] if len(streams) > 1 else None)
    image = image + gate * linear(attn.to_out[0], guided)
    image = image + mlp_gate * mlp(block.ff, layer_norm(image) * (1 + mlp_scale) + mlp_shift)
    evolved = []
    for text, stream in zip(texts, streams, strict=True):
        text = text + of_text[2] * linear(attn.to_add_out, text_rows(own, stream))
        inner = layer_norm(text) * (1 + of_text[4]) + of_text[3]
        evolved.append(text + of_text[5] * mlp(block.ff_context, inner))
    return image, evolved


def single(
    block: Any,
    image: Tensor,
    texts: list[Tensor],
    parts: Any,
    rotary: Tensor,
    text_rotary: Any,
    settings: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Each stream by itself: the layer's attention and MLP share one input and one output projection."""
    attn, (shift, scale, gate) = block.attn, parts
    inner, hidden = attn.inner_dim, attn.mlp_hidden_dim
    streams, gated = [], []
    for stream, place in zip([image, *texts], [rotary, *text_rotary], strict=True):
        projected = linear(attn.to_qkv_mlp_proj, layer_norm(stream) * (1 + scale) + shift)
        q, k, v = (split_heads(projected[:, inner * i : inner * (i + 1)], attn.heads) for i in range(3))
        q, k = (rms_norm(norm, x, 1e-6) for norm, x in ((attn.norm_q, q), (attn.norm_k, k)))
        streams.append(Heads(rotate(q, place), rotate(k, place), v))
        left, right = projected[:, 3 * inner : 3 * inner + hidden], projected[:, 3 * inner + hidden :]
        gated.append(silu(left) * right)
    own, *others = streams
    attended = [image_rows(settings, own, others[0], others[1] if len(others) > 1 else None)]
    attended += [text_rows(own, other) for other in others]
    image, *texts = (
        stream + gate * linear(attn.to_out, torch.cat([rows, wide], -1))
        for stream, rows, wide in zip([image, *texts], attended, gated, strict=True)
    )
    return image, texts


def mlp(layer: Any, x: Tensor) -> Tensor:
    left, right = linear(layer.linear_in, x).chunk(2, -1)
    return linear(layer.linear_out, silu(left) * right)


def heads(attn: Any, x: Tensor, layers: Any, norms: Any, place: Tensor) -> Heads:
    q, k, v = (split_heads(linear(getattr(attn, name), x), attn.heads) for name in layers)
    q, k = (rms_norm(getattr(attn, name), part, 1e-6) for name, part in zip(norms, (q, k), strict=True))
    return Heads(rotate(q, place), rotate(k, place), v)
