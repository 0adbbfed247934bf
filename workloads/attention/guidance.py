"""Guidance of a network's cross-attention away from negative prompts, within a `with` block.

    guidance = AttentionGuidance(student, negative, settings)   # computes negative keys and values once
    with guidance:
        latents = backbone.one_step(student, noise, prompts)

It is implemented as diffusers attention processors, so it works for every network whose blocks
cross-attend by diffusers' `Attention` (the UNets of Stable Diffusion, the transformers of PixArt). All
cross-attention layers are guided. Queries and keys of both prompts are normalised alike in layers with
QK-norm.

Shapes: B batch, S tokens of the negative prompt, T tokens of the prompt, D text width, Q queries (latent
positions), W width of all heads together, h heads, d width of a head.
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

CROSS_ATTENTION = "attn2"
"""Name of the cross-attention layer of a transformer block in diffusers."""
PADDING_BIAS = -10_000.0
"""Bias on the attention logits of padding tokens, as diffusers has it for the prompt."""


class AttentionGuidance:
    """Negative keys and values of every cross-attention layer, and the strength of the guidance.

    At strength 0 the network is left as it is, so its output is that of the plain student, bit for bit.
    """

    def __init__(
        self,
        network: nn.Module,
        negative: Conditioning,
        settings: AttentionGuidanceSettings,
        strength: Tensor | None = None,
    ) -> None:
        """Compute the negative keys and values of every layer.

        Gradients flow into the network through them if autograd is enabled here.

        Args:
            network: A diffusers network.
            negative: Embeddings (1 or B, S, D) of one negative prompt for all samples, or of one each.
            settings: The kernel and its parameters.
            strength: () or (B,), replaces the strength of the settings and counts as not 0.

        Raises:
            ValueError: The network has no cross-attention that can be guided.
        """
        self._on = settings.kind != "none" and (strength is not None or settings.strength > 0)
        self._plain: dict[Attention, Any] = {}
        device = negative.embeddings.device
        given = torch.tensor(settings.strength, device=device) if strength is None else strength
        self.state = GuidanceState(settings, given.reshape(-1, 1, 1) if given.dim() else given)
        if not self._on:
            return
        layers = cross_attention_layers(network)
        context, bias = _context(network, negative), _padding_bias(negative)
        self._guided = {
            layer: GuidedAttention(self.state, *_keys_values(layer, context), bias) for layer in layers
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
class GuidanceState:
    """Parameters of the guidance that all layers of a network share; holds no reference to the layers."""

    settings: AttentionGuidanceSettings
    strength: Tensor
    """() or (B, 1, 1); a change in place does not recompile a compiled network."""
    rows: slice = field(default_factory=lambda: slice(None))
    """The rows, of B samples, that the next call of the network is for."""

    def combine(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Return a layer's guided features (B, Q, W) from its attention to both prompts, each (B, Q, W)."""
        strength = self.strength.to(positive.dtype)
        strength = strength[self.rows] if strength.dim() else strength
        if self.settings.kind == "nasa":
            return kernels.nasa(positive, negative, strength)
        return kernels.nag(positive, negative, strength, self.settings.clip, self.settings.blend)


def nasa_guidance(
    network: Any, negatives: Conditioning | None, strength: Tensor
) -> AttentionGuidance | nullcontext[None]:
    """Return the NASA guidance of a training step (NASA-T; SNOOPI v3, arXiv 2412.02687v3, sec. 5.3).

    Args:
        network: A diffusers network, or an engine or DDP module around one.
        negatives: Embeddings (B, S, D) of the negative prompts; None: no guidance.
        strength: () or (B,), 0 included.
    """
    if negatives is None:
        return nullcontext()
    wrapped = getattr(network, "module", network)
    return AttentionGuidance(wrapped, negatives, AttentionGuidanceSettings("nasa"), strength)


@dataclass(frozen=True, eq=False)
class GuidedAttention:
    """Diffusers attention processor for one layer, whose queries attend to both prompts."""

    state: GuidanceState
    key: Tensor
    """Keys of the negative prompt, (1 or B, h, S, d)."""
    value: Tensor
    """Values of the negative prompt, (1 or B, h, S, d)."""
    bias: Tensor | None
    """Bias on the logits of the negative prompt, (1 or B, 1, 1, S)."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the layer's output (B, Q, width); diffusers calls it in place of its own processor.

        Args:
            attn: The layer.
            hidden_states: (B, Q, width), the latent positions.
            encoder_hidden_states: (B, T, D), the prompt.
            attention_mask: Bias on the logits of the prompt, (B, 1, T).
            temb: Unused; diffusers passes it to some processors.
            kwargs: Unused.
        """
        batch, tokens, _ = encoder_hidden_states.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, tokens)
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        key, value = _keys_values(attn, encoder_hidden_states)
        positive = _attend(query, key, value, attention_mask)
        negative = _attend(query, self._rows(self.key), self._rows(self.value), self._bias_rows())
        guided = self.state.combine(positive, negative)
        out: Tensor = attn.to_out[1](attn.to_out[0](guided))
        if attn.residual_connection:
            out = out + hidden_states
        scaled: Tensor = out / attn.rescale_output_factor
        return scaled

    def _rows(self, tensor: Tensor) -> Tensor:
        """Select the rows of the current call from (1 or B, ...); a single row serves all samples."""
        return tensor if len(tensor) == 1 else tensor[self.state.rows]

    def _bias_rows(self) -> Tensor | None:
        return None if self.bias is None else self._rows(self.bias)


def cross_attention_layers(network: nn.Module) -> list[Attention]:
    """Return the cross-attention layers of `network` in order.

    Raises:
        ValueError: There are none, or they are of an unsupported kind.
    """
    found = [layer for name, layer in network.named_modules() if name.split(".")[-1] == CROSS_ATTENTION]
    layers = [layer for layer in found if isinstance(layer, Attention)]
    normed = [layer for layer in layers if layer.group_norm is not None or layer.spatial_norm is not None]
    if not layers or normed or len(layers) < len(found) or getattr(network, "encoder_hid_proj", None):
        raise ValueError(f"{type(network).__name__} has no cross-attention that can be guided")
    return layers


def _context(network: nn.Module, negative: Conditioning) -> Tensor:
    """Return the states (1 or B, S, D) that all layers attend to; PixArt projects the embeddings first."""
    embeddings = negative.embeddings.to(next(network.parameters()).dtype)
    project = getattr(network, "caption_projection", None)
    return embeddings if project is None else project(embeddings)


def _padding_bias(negative: Conditioning) -> Tensor | None:
    """Return the bias (1 or B, 1, 1, S) on the logits of padding; None without a mask."""
    if negative.mask is None:
        return None
    bias: Tensor = (1 - negative.mask.to(negative.embeddings.dtype)) * PADDING_BIAS
    return bias[:, None, None, :]


def _keys_values(attn: Attention, context: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values, each (B, h, S, d), of the states `context` (B, S, D)."""
    if attn.norm_cross:
        context = attn.norm_encoder_hidden_states(context)
    return _heads(attn, attn.to_k(context), attn.norm_k), _heads(attn, attn.to_v(context), None)


def _heads(attn: Attention, features: Tensor, norm: nn.Module | None) -> Tensor:
    """Split (B, n, W) into heads (B, h, n, d), normalised by `norm` if the layer has QK-norm."""
    split = features.view(*features.shape[:2], attn.heads, -1).transpose(1, 2)
    normed: Tensor = split if norm is None else norm(split)
    return normed


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return the attention (B, Q, W) of `query` (B, h, Q, d); key, value and bias have 1 or B rows."""
    key, value = (part.expand(len(query), -1, -1, -1) for part in (key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
