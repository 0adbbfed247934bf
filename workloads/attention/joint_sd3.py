"""Guidance in `SD3Transformer2DModel` (Stable Diffusion 3 and 3.5): joint attention in every block.

The negative text takes B further rows of the network's text input, and of the embedding that modulates it:
with NAG its own pooled embedding, with VSF that of the prompt, as each is published. The image has B rows
throughout, so its norms get the first B rows of the embedding. `attn2` of SD3.5's dual blocks sees the image
alone and is left as it is; the last block has no text output.

Shapes: B samples, I tokens of the image, P of the prompt, W width of all heads together.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.attention.joint import NegativeText, Stream, attend, named_inputs
from workloads.attention.state import GuidanceState, Plan
from workloads.backbones.prompts.conditioning import Conditioning


def plan(network: Any, negative: Conditioning, state: GuidanceState) -> Plan:
    """Return the changes that guide all joint attention layers of `network`."""
    text = NegativeText(negative, state)
    blocks = network.transformer_blocks
    norms = [network.norm_out, *(block.norm1 for block in blocks)]
    processors = {block.attn: SD3Attention(state, text) for block in blocks}
    return Plan(processors, [(network, SD3Inputs(state, text)), *((norm, first_rows) for norm in norms)])


@dataclass(frozen=True, eq=False)
class SD3Inputs:
    """Forward pre-hook of the network, which adds the negative text as rows B to 2B of the text input."""

    state: GuidanceState
    text: NegativeText

    def __call__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs with 2B rows of embeddings, pooled embeddings and timesteps.

        Raises:
            ValueError: The negative prompt is longer than the prompt, or has no pooled embeddings.
        """
        inputs = named_inputs(network, args, kwargs)
        prompt, pooled = inputs["encoder_hidden_states"], inputs["pooled_projections"]
        self.text.check_fits(prompt.shape[1])
        negative = F.pad(self.text.embeddings(prompt), (0, 0, 0, prompt.shape[1] - self.text.tokens))
        own = pooled if self.state.one_softmax else self.text.pooled(pooled)
        inputs["encoder_hidden_states"] = torch.cat([prompt, negative])
        inputs["pooled_projections"] = torch.cat([pooled, own])
        inputs["timestep"] = inputs["timestep"].expand(len(prompt)).repeat(2)
        return (), inputs


def first_rows(
    norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cut the inputs of a norm of the image, features and embedding, to as many rows as the features have."""
    rows = len(args[0])
    return tuple(part[:rows] for part in args), {name: part[:rows] for name, part in kwargs.items()}


@dataclass(frozen=True, eq=False)
class SD3Attention:
    """Diffusers attention processor for one joint layer."""

    state: GuidanceState
    text: NegativeText

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output for the image (B, I, W) and both texts (2B, P, W).

        Args:
            attn: The layer.
            hidden_states: (B, I, W), the image.
            encoder_hidden_states: (2B, P, W), rows of the prompts and then of the negative prompts.
            kwargs: Unused.
        """
        texts = encoder_hidden_states
        asked = texts[:, :0] if attn.context_pre_only else texts
        image = [attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)]
        text = [attn.add_q_proj(asked), attn.add_k_proj(texts), attn.add_v_proj(texts)]
        positive, negative = (
            Stream.of(parts, attn.heads, attn.norm_added_q, attn.norm_added_k)
            for parts in zip(*(part.chunk(2) for part in text), strict=True)
        )
        guided, *both = attend(
            self.state,
            Stream.of(image, attn.heads, attn.norm_q, attn.norm_k),
            positive,
            negative._replace(keep=self.text.keep(texts.shape[1])),
        )
        rows = torch.cat(both)
        return attn.to_out[1](attn.to_out[0](guided)), rows if attn.context_pre_only else attn.to_add_out(
            rows
        )
