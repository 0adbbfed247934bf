"""Guidance of a network's attention to the prompt away from negative prompts, within a `with` block.

    guidance = AttentionGuidance(student, negative, settings)
    with guidance:
        latents = backbone.one_step(student, noise, prompts)

It is implemented as diffusers attention processors. Networks with joint attention are guided by the adapters
in `JOINT`. This module guides every network whose blocks cross-attend by diffusers' `Attention` (the UNets of
Stable Diffusion, the transformers of PixArt and SANA): all cross-attention layers, with the keys and values
of the negative prompt computed once. Queries and keys of both prompts are normalised alike in layers with
QK-norm.

Shapes: B batch, S tokens of the negative prompt, T tokens of the prompt, D text width, Q queries (latent
positions), W width of all heads together, h heads, d width of a head.
"""

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from workloads.attention.state import GuidanceState, Plan
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.lora import active, network_of
from workloads.settings.train import AttentionGuidanceSettings

JOINT = {
    "SD3Transformer2DModel": "joint_sd3",
    "Flux2Transformer2DModel": "joint_flux2",
    "ZImageTransformer2DModel": "joint_z_image",
}
"""The module of this package that guides the joint attention of a class of networks by its `plan`."""
CROSS_ATTENTION = "attn2"
"""Name of the cross-attention layer of a transformer block in diffusers."""
PADDING_BIAS = -10_000.0
"""Bias on the attention logits of padding tokens, as diffusers has it for the prompt."""


class AttentionGuidance:
    """The strength of the guidance, and the changes that guide a network within a `with` block.

    At strength 0 the network is left as it is, so its output is that of the plain student, bit for bit. For
    VSF this is a jump: at any other strength the tokens of the negative prompt take part in the softmax.
    """

    def __init__(
        self,
        network: nn.Module,
        negative: Conditioning,
        settings: AttentionGuidanceSettings,
        strength: Tensor | None = None,
    ) -> None:
        """Compute what does not depend on the image: keys and values of cross-attention, or the text states.

        Gradients flow into the network through them if autograd is enabled here.

        Args:
            network: A diffusers network, or a module around one.
            negative: Embeddings (1 or B, S, D) of one negative prompt for all samples, or of one each. Where
                there is a mask, its padding is cut. Joint attention has the negative prompt's own pooled
                embedding, if the network takes any.
            settings: The kernel and its parameters.
            strength: () or (B,), replaces the strength of the settings and counts as not 0.

        Raises:
            ValueError: The network has no attention that can be guided, or not by this kernel.
        """
        on = settings.kind != "none" and (strength is not None or settings.strength > 0)
        device = negative.embeddings.device
        given = torch.tensor(settings.strength, device=device) if strength is None else strength
        self.state = GuidanceState(settings, given.reshape(-1, 1, 1) if given.dim() else given)
        self._plan = _plan(network, negative, self.state) if on else Plan({})
        self._undo = ExitStack()

    def __enter__(self) -> "AttentionGuidance":
        for layer, processor in self._plan.processors.items():
            self._undo.callback(layer.set_processor, layer.processor)
            layer.set_processor(processor)
        for module, hook in self._plan.hooks:
            self._undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()


def nasa_guidance(
    network: Any, negatives: Conditioning | None, strength: Tensor
) -> AttentionGuidance | nullcontext[None]:
    """Return the NASA guidance of a training step (NASA-T; SNOOPI v3, arXiv 2412.02687v3, sec. 5.3).

    Args:
        network: A student, or an engine or DDP module around one. Other roles of a network that it shares
            are guided as well while the guidance is on.
        negatives: Embeddings (B, S, D) of the negative prompts; None: no guidance.
        strength: () or (B,), 0 included.
    """
    if negatives is None:
        return nullcontext()
    student, settings = getattr(network, "module", network), AttentionGuidanceSettings("nasa")
    with active(student):
        return AttentionGuidance(network_of(student), negatives, settings, strength)


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
        guided = self._guided(query, key, value, attention_mask)
        out: Tensor = attn.to_out[1](attn.to_out[0](guided))
        if attn.residual_connection:
            out = out + hidden_states
        scaled: Tensor = out / attn.rescale_output_factor
        return scaled

    def _guided(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Return the guided features (B, Q, W); key, value and bias, each of B rows, are the prompt's."""
        other_key, other_value = self.state.select(self.key), self.state.select(self.value)
        other_bias = None if self.bias is None else self.state.select(self.bias)
        if not self.state.one_softmax:
            positive = _attend(query, key, value, bias)
            return self.state.combine(positive, _attend(query, other_key, other_value, other_bias))
        keys = torch.cat([key, other_key.expand(len(key), -1, -1, -1)], 2)
        flipped = self.state.flip(other_value).expand(len(key), -1, -1, -1)
        biases = _join_biases(bias, key, other_bias, other_key)
        return _attend(query, keys, torch.cat([value, flipped], 2), biases)


def _plan(network: nn.Module, negative: Conditioning, state: GuidanceState) -> Plan:
    """Return the changes that guide `network`, by the adapter of its class or in its cross-attention."""
    for module in network.modules():
        if adapter := JOINT.get(type(module).__name__):
            _check_joint(type(module).__name__, state.settings.kind)
            plan: Plan = import_module(f"workloads.attention.{adapter}").plan(module, negative, state)
            return plan
    layers = cross_attention_layers(network)
    context, bias = _context(network, negative), _padding_bias(negative)
    return Plan({layer: GuidedAttention(state, *_keys_values(layer, context), bias) for layer in layers})


def _check_joint(network: str, kind: str) -> None:
    if kind == "nasa":
        raise ValueError(
            f"NASA is not defined for joint attention, which {network} has; take the kind nag or vsf"
        )


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
    """Return the states (1 or B, S, D) that all layers attend to.

    PixArt and SANA project the embeddings first, and SANA normalises them then.
    """
    states = negative.embeddings.to(next(network.parameters()).dtype)
    for name in ("caption_projection", "caption_norm"):
        layer = getattr(network, name, None)
        states = states if layer is None else layer(states)
    return states


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
    """Split (B, n, W) into heads (B, h, n, d), normalised by `norm` if the layer has QK-norm.

    The norm is over each head, or over all of them together ("across heads", as in SANA-1.5).
    """
    weight = getattr(norm, "weight", None)
    across = weight is not None and weight.numel() == features.shape[-1]
    features = norm(features) if norm is not None and across else features
    split = features.view(*features.shape[:2], attn.heads, -1).transpose(1, 2)
    normed: Tensor = split if norm is None or across else norm(split)
    return normed


def _join_biases(
    bias: Tensor | None, key: Tensor, other_bias: Tensor | None, other_key: Tensor
) -> Tensor | None:
    """Return the bias (B, 1 or h, 1, T + S) on the logits of both prompts; None if neither has one."""
    if bias is None and other_bias is None:
        return None
    parts = [
        key.new_zeros(1, 1, 1, part.shape[2]) if own is None else own.to(key.dtype)
        for own, part in ((bias, key), (other_bias, other_key))
    ]
    heads = max(part.shape[1] for part in parts)
    return torch.cat([part.expand(len(key), heads, -1, -1) for part in parts], -1)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return the attention (B, Q, W) of `query` (B, h, Q, d); key, value and bias have 1 or B rows."""
    key, value = (part.expand(len(query), -1, -1, -1) for part in (key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)
