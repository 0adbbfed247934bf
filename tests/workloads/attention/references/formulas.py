"""Arithmetic of transformer blocks and guided attention for one sample, from the formulas alone.

Tensors have no batch axis: tokens (n, width), or heads (h, n, d).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workloads.settings.train import AttentionGuidanceSettings

Complex = Tensor


class Heads(NamedTuple):
    """Queries, keys and values of one stream."""

    q: Tensor
    k: Tensor
    v: Tensor


def linear(layer: Any, x: Tensor) -> Tensor:
    product: Tensor = x @ layer.weight.T
    return product if layer.bias is None else product + layer.bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)


def rms_norm(layer: Any, x: Tensor, eps: float) -> Tensor:
    if layer is None:
        return x
    normed: Tensor = x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * layer.weight
    return normed


def split_heads(x: Tensor, heads: int) -> Tensor:
    return torch.stack(x.chunk(heads, -1))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Merged heads (n, h d)."""
    weights = torch.exp(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]))
    return torch.cat(list(weights @ v / weights.sum(-1, keepdim=True)), -1)


def rotate(x: Tensor, turns: Complex) -> Tensor:
    """Multiply neighbouring pairs of (h, n, d), as complex numbers, by (n, d / 2)."""
    turned = torch.complex(x[..., 0::2], x[..., 1::2]) * turns
    out = torch.empty_like(x)
    out[..., 0::2], out[..., 1::2] = turned.real, turned.imag
    return out


def turns(positions: Sequence[Sequence[int]], widths: Sequence[int], theta: float) -> Complex:
    """Rotary factors e^(i p theta^(-2 j / w)) of each position p of each axis of width w."""
    rows = []
    for place in positions:
        angles = [p * theta ** (-j / w) for p, w in zip(place, widths, strict=True) for j in range(0, w, 2)]
        rows.append([complex(math.cos(angle), math.sin(angle)) for angle in angles])
    return torch.tensor(rows, dtype=torch.complex128)


def nag(plus: Tensor, minus: Tensor, settings: AttentionGuidanceSettings) -> Tensor:
    """NAG, eqs. 7 to 10, token by token, with the eps of its published code."""
    rows = []
    for own, other in zip(plus, minus, strict=True):
        steered = (1 + settings.strength) * own - settings.strength * other
        if settings.clip:
            size, most = steered.abs().sum(), settings.clip * own.abs().sum()
            steered = steered * min(size, most) / (size + 1e-6)
        rows.append(settings.blend * steered + (1 - settings.blend) * own)
    return torch.stack(rows)


def image_rows(
    settings: AttentionGuidanceSettings | None, image: Heads, prompt: Heads, negative: Heads | None
) -> Tensor:
    """The image's rows of the joint attention's output, guided if there is a negative prompt."""
    plus = text_rows(image, prompt, image.q)
    if settings is None or negative is None:
        return plus
    if settings.kind == "nag":
        return nag(plus, text_rows(image, negative, image.q), settings)
    keys = torch.cat([negative.k, image.k, prompt.k], 1)
    values = torch.cat([-settings.strength * negative.v, image.v, prompt.v], 1)
    return softmax_attention(image.q, keys, values)


def text_rows(image: Heads, text: Heads, queries: Tensor | None = None) -> Tensor:
    """The attention of `queries`, by default the text's, to text and image."""
    keys, values = torch.cat([text.k, image.k], 1), torch.cat([text.v, image.v], 1)
    return softmax_attention(text.q if queries is None else queries, keys, values)
