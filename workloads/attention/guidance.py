"""A network whose cross-attention is guided away from negative prompts, for the time of a `with`.

    guidance = AttentionGuidance(student, negative, settings)   # negative keys and values, once
    with guidance:
        latents = backbone.one_step(student, noise, prompts)

Written as diffusers attention processors, so it serves every network whose blocks cross-attend
by diffusers' `Attention` (UNets: Stable Diffusion; transformers: PixArt).
Shapes: B batch, S tokens of the negative prompt, D text width, Q queries, h heads, d their width.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

import workloads.attention.kernels as kernels
from workloads.backbones.conditioning import Conditioning
from workloads.settings.train import AttentionGuidanceSettings

CROSS = "attn2"
"""What diffusers calls the cross-attention of a transformer block."""
MASKED = -10_000.0
"""Added to the logits of padding, as diffusers does for the prompt."""


class AttentionGuidance:
    """Negative keys and values of every cross-attention layer, and the strength of guidance.

    At strength 0 nothing is put into the network: it is the plain student, bit for bit.
    """

    def __init__(
        self,
        network: nn.Module,
        negative: Conditioning,
        settings: AttentionGuidanceSettings,
        strength: Tensor | None = None,
    ) -> None:
        """`negative`: of one negative prompt for all samples, or of one for each of B.

        `strength`, () or (B,), replaces that of the settings and counts as not 0. Gradients
        reach the network through the negative keys and values if they are on here.

        Raises:
            ValueError: the network has no cross-attention that can be guided.
        """
        self._on = settings.kind != "none" and (strength is not None or settings.strength > 0)
        self._plain: dict[Attention, Any] = {}
        device = negative.embeddings.device
        given = torch.tensor(settings.strength, device=device) if strength is None else strength
        self.steering = Steering(settings, given.reshape(-1, 1, 1) if given.dim() else given)
        if not self._on:
            return
        layers = cross_attention(network)
        context, bias = _context(network, negative), _bias(negative)
        self._guided = {
            layer: GuidedAttention(self.steering, *_keys_values(layer, context), bias) for layer in layers
        }

    def __enter__(self) -> "AttentionGuidance":
        if self._on:
            self._plain = {layer: layer.processor for layer in self._guided}
            for layer, processor in self._guided.items():
                layer.set_processor(processor)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, processor in self._plain.items():
            layer.set_processor(processor)
        self._plain = {}


@dataclass
class Steering:
    """How the layers of one network are guided; theirs in common, and no owner of them."""

    settings: AttentionGuidanceSettings
    strength: Tensor
    """() or (B, 1, 1): may be changed in place, which compiles nothing anew."""
    rows: slice = field(default_factory=lambda: slice(None))
    """Which of the B samples the next call is about."""

    def combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        """The guided features (B, Q, D) of a layer, from its attention to both prompts."""
        strength = self.strength.to(positive.dtype)
        strength = strength[self.rows] if strength.dim() else strength
        if self.settings.kind == "nasa":
            return kernels.nasa(positive, negative, strength)
        return kernels.nag(positive, negative, strength, self.settings.clip, self.settings.blend)


def nasa(
    network: Any, negatives: Conditioning | None, strength: Tensor
) -> AttentionGuidance | nullcontext[None]:
    """NASA as a step of training needs it: for any strength, 0 too, and for no negatives at all.

    `network`: a diffusers network, or an engine or DDP module around one.
    """
    if negatives is None:
        return nullcontext()
    wrapped = getattr(network, "module", network)
    return AttentionGuidance(wrapped, negatives, AttentionGuidanceSettings("nasa"), strength)


@dataclass(frozen=True, eq=False)
class GuidedAttention:
    """A diffusers attention processor for one layer; one query attends to both prompts."""

    steering: Steering
    key: Tensor
    """(1 or B, h, S, d), of the negative prompt."""
    value: Tensor
    bias: Tensor | None
    """(1 or B, 1, 1, S), added to the logits."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, Q, D) attending to the prompt's (B, tokens, D); what diffusers calls."""
        batch, tokens, _ = encoder_hidden_states.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, tokens)
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        key, value = _keys_values(attn, encoder_hidden_states)
        positive = _attend(query, key, value, attention_mask)
        negative = _attend(query, self._rows(self.key), self._rows(self.value), self._bias_rows())
        steered = self.steering.combine(positive, negative)
        out: Tensor = attn.to_out[1](attn.to_out[0](steered))
        if attn.residual_connection:
            out = out + hidden_states
        scaled: Tensor = out / attn.rescale_output_factor
        return scaled

    def _rows(self, of_all: Tensor) -> Tensor:
        return of_all if len(of_all) == 1 else of_all[self.steering.rows]

    def _bias_rows(self) -> Tensor | None:
        return None if self.bias is None else self._rows(self.bias)


def cross_attention(network: nn.Module) -> list[Attention]:
    """The cross-attention layers of `network`, in their order.

    Raises:
        ValueError: it has none, or they are of a kind that is not known here.
    """
    found = [layer for name, layer in network.named_modules() if name.split(".")[-1] == CROSS]
    layers = [layer for layer in found if isinstance(layer, Attention)]
    odd = [layer for layer in layers if layer.group_norm is not None or layer.spatial_norm is not None]
    if not layers or odd or len(layers) < len(found) or getattr(network, "encoder_hid_proj", None):
        raise ValueError(f"{type(network).__name__} has no cross-attention that can be guided")
    return layers


def _context(network: nn.Module, negative: Conditioning) -> Tensor:
    """What the layers attend to, (B, S, D); PixArt projects captions once for all layers."""
    embeddings = negative.embeddings.to(next(network.parameters()).dtype)
    project = getattr(network, "caption_projection", None)
    return embeddings if project is None else project(embeddings)


def _bias(negative: Conditioning) -> Tensor | None:
    if negative.mask is None:
        return None
    bias: Tensor = (1 - negative.mask.to(negative.embeddings.dtype)) * MASKED
    return bias[:, None, None, :]


def _keys_values(attn: Attention, context: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S, D) -> keys and values (B, h, S, d)."""
    if attn.norm_cross:
        context = attn.norm_encoder_hidden_states(context)
    return _heads(attn, attn.to_k(context), attn.norm_k), _heads(attn, attn.to_v(context), None)


def _heads(attn: Attention, features: Tensor, norm: nn.Module | None) -> Tensor:
    """(B, n, D) -> (B, h, n, d), normalised if the layer normalises queries and keys."""
    split = features.view(*features.shape[:2], attn.heads, -1).transpose(1, 2)
    normed: Tensor = split if norm is None else norm(split)
    return normed


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """(B, h, Q, d) -> (B, Q, D); key, value and bias may be of one sample for all."""
    key, value = (part.expand(len(query), -1, -1, -1) for part in (key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
