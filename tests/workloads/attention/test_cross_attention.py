"""Guided cross-attention layers against a derivation in float64 that shares no code with them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import SanaTransformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from tests.workloads.attention.joint_networks import random_weights
from workloads.attention import AttentionGuidance
from workloads.attention.guidance import cross_attention_layers
from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import WEIGHTS
from workloads.settings.train import AttentionGuidanceSettings

PROMPTS = ["a large red circle", "a tiny blue square on a white background", "a cross"]
NEGATIVES = ["red", "a white background", "a large green cross at the top on a grey background"]
KERNELS = [
    AttentionGuidanceSettings("nasa", 0.625),
    AttentionGuidanceSettings("nag", 3.0),
    AttentionGuidanceSettings("nag", 0.75, clip=0, blend=1),
    AttentionGuidanceSettings("vsf", 0.625),
]
kernels = pytest.mark.parametrize("settings", KERNELS, ids=lambda s: s.label)


def rows_by_hand(layer: Attention, states: Tensor, kept: Tensor, other: Tensor, settings: Any) -> Tensor:
    """The guided features (Q, W) of one sample, from prompts without padding, before `to_out`."""
    q, k, v = (projected(layer, name, kept if name != "q" else states) for name in "qkv")
    other_k, other_v = projected(layer, "k", other), projected(layer, "v", other)
    width = q.shape[-1] // layer.heads
    cuts = [slice(head * width, (head + 1) * width) for head in range(layer.heads)]
    if settings.kind == "vsf":
        keys, values = torch.cat([other_k, k]), torch.cat([-settings.strength * other_v, v])
        return torch.cat([attended(q[:, cut], keys[:, cut], values[:, cut]) for cut in cuts], -1)
    plus = torch.cat([attended(q[:, cut], k[:, cut], v[:, cut]) for cut in cuts], -1)
    minus = torch.cat([attended(q[:, cut], other_k[:, cut], other_v[:, cut]) for cut in cuts], -1)
    return guided_by_hand(plus, minus, settings)


def projected(layer: Attention, name: str, states: Tensor) -> Tensor:
    """Queries, keys or values (n, W), with the QK-norm over all heads if there is one."""
    linear, norm = getattr(layer, f"to_{name}"), getattr(layer, f"norm_{name}", None)
    product: Tensor = states @ linear.weight.T + (0 if linear.bias is None else linear.bias)
    if norm is not None:
        product = product / torch.sqrt((product**2).mean(-1, keepdim=True) + norm.eps) * norm.weight
    return product


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    logits = q @ k.T / q.shape[-1] ** 0.5
    features: Tensor = (logits.exp() / logits.exp().sum(-1, keepdim=True)) @ v
    return features


def guided_by_hand(positive: Tensor, negative: Tensor, settings: AttentionGuidanceSettings) -> Tensor:
    """Apply the papers' formulas token by token, with the eps of NAG's published code."""
    if settings.kind == "nasa":
        return positive - settings.strength * negative
    out = torch.empty_like(positive)
    for place, (plus, minus) in enumerate(zip(positive, negative, strict=True)):
        steered = plus * (1 + settings.strength) - settings.strength * minus
        if settings.clip:
            size, most = steered.abs().sum(), settings.clip * plus.abs().sum()
            steered = steered * min(size, most) / (size + 1e-6)
        out[place] = settings.blend * steered + (1 - settings.blend) * plus
    return out


@torch.no_grad()
def check_layer(
    network: nn.Module,
    layer: Attention,
    prompts: Conditioning,
    negatives: Conditioning,
    project: Callable[[Tensor], Tensor],
    settings: AttentionGuidanceSettings,
    tolerance: float = 1e-10,
) -> None:
    network.double()
    hidden = torch.randn(3, 5, layer.to_q.in_features, generator=torch.Generator().manual_seed(1)).double()
    contexts = [project(text.embeddings.double()) for text in (prompts, negatives)]
    rows = []
    for index in range(3):
        kept = [
            states[index] if text.mask is None else states[index][text.mask[index].bool()]
            for states, text in zip(contexts, (prompts, negatives), strict=True)
        ]
        rows.append(rows_by_hand(layer, hidden[index], kept[0], kept[1], settings))
    expected = layer.to_out[0](torch.stack(rows))
    bias = None if prompts.mask is None else (1 - prompts.mask[:, None, :].double()) * -10_000
    with AttentionGuidance(network, negatives, settings):
        seen = layer(hidden, encoder_hidden_states=contexts[0], attention_mask=bias)
    torch.testing.assert_close(seen, expected, rtol=tolerance, atol=tolerance)


@kernels
@pytest.mark.parametrize("teacher", ["unet-v", "pixart"])
def test_layer_of_a_miniature(teacher: str, settings: AttentionGuidanceSettings) -> None:
    source = str(WEIGHTS / teacher)
    network, encoder = load_backbone(source).network, TextEncoder(source)
    project = getattr(network, "caption_projection", None) or (lambda states: states)
    prompts, negatives = encoder.encode(PROMPTS), encoder.encode(NEGATIVES)
    check_layer(network, cross_attention_layers(network)[1], prompts, negatives, project, settings)


def sana(qk_norm: str | None = None) -> Any:
    network = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=4, cross_attention_dim=16, caption_channels=12,
        sample_size=8, qk_norm=qk_norm,
    )  # fmt: skip
    return random_weights(network)


def texts(seed: int, rows: int = 3) -> Conditioning:
    embeddings = torch.randn(rows, 7, 12, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(7)[None] < torch.tensor([[7], [4], [2]])[:rows]
    return Conditioning(torch.where(mask[..., None], embeddings, 9.0), mask.long())


@kernels
@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
def test_layer_of_sana(qk_norm: str | None, settings: AttentionGuidanceSettings) -> None:
    """With and without the QK-norm of SANA-1.5; the text is projected and then normalised."""
    network = sana(qk_norm)
    project = nn.Sequential(network.caption_projection, network.caption_norm)
    tolerance = 1e-10 if qk_norm is None else 1e-6  # diffusers' RMSNorm takes the variance in float32
    layer = cross_attention_layers(network)[1]
    check_layer(network, layer, texts(1), texts(2), project, settings, tolerance)


@kernels
@torch.no_grad()
def test_whole_sana_is_guided_row_by_row(settings: AttentionGuidanceSettings) -> None:
    network, prompts, negatives = sana(), texts(1), texts(2)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def call(rows: slice) -> Tensor:
        output: Tensor = network(
            latents[rows],
            encoder_hidden_states=prompts.embeddings[rows],
            encoder_attention_mask=prompts.parts["mask"][rows],
            timestep=torch.tensor([1000.0, 500.0, 10.0])[rows],
            return_dict=False,
        )[0]
        return output

    every = slice(0, 3)
    plain = call(every)
    guidance = AttentionGuidance(network, negatives, settings)
    with guidance:
        together = call(every)
        guidance.state.rows = slice(1, 2)
        alone = call(slice(1, 2))
    assert (together - plain).abs().max() > 1e-3
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-5)
    assert torch.equal(call(every), plain)


def test_vsf_of_a_masked_negative_with_an_unmasked_prompt() -> None:
    """Only the negative has padding: it is cut, and the prompt is attended to in full."""
    layer = Attention(16, cross_attention_dim=12, heads=2, dim_head=8)
    network = nn.Module()
    network.attn2 = layer
    prompts, settings = Conditioning(texts(1).embeddings), AttentionGuidanceSettings("vsf", 0.625)
    check_layer(random_weights(network), layer, prompts, texts(2), lambda states: states, settings)
