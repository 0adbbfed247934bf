"""Guidance in `Flux2Transformer2DModel` (FLUX.2): double blocks, then single blocks, with rotary positions.

The negative text follows the prompt in the network's text input, at the positions of a prompt. Time alone
modulates the texts, so all blocks carry both in one sequence [prompt ; negative ; image].

Shapes: B samples, I tokens of the image, P of the prompt, N of the negative prompt, W width of all heads
together, h heads, d width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from workloads.attention.joint import NegativeText, Stream, attend, named_inputs
from workloads.attention.state import GuidanceState, Plan
from workloads.backbones.prompts.conditioning import Conditioning

Rotary = tuple[Tensor, Tensor]
"""Cosine and sine of each position, (P + N + I, d) each."""


def plan(network: Any, negative: Conditioning, state: GuidanceState) -> Plan:
    """Return the changes that guide all attention layers of `network`."""
    inputs = Flux2Inputs(NegativeText(negative, state))
    double = {block.attn: Flux2DoubleAttention(state, inputs) for block in network.transformer_blocks}
    single = {block.attn: Flux2SingleAttention(state, inputs) for block in network.single_transformer_blocks}
    return Plan(double | single, [(network, inputs)])


@dataclass(eq=False)
class Flux2Inputs:
    """Forward pre-hook of the network, which puts the negative text after the prompt."""

    text: NegativeText
    prompt_tokens: int = 0
    """P of the current call."""

    def __call__(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs with P + N text tokens and positions.

        Raises:
            ValueError: The negative prompt is longer than the prompt.
        """
        inputs = named_inputs(network, args, kwargs)
        prompt, positions = inputs["encoder_hidden_states"], inputs["txt_ids"]
        self.prompt_tokens = prompt.shape[1]
        self.text.check_fits(self.prompt_tokens)
        inputs["encoder_hidden_states"] = torch.cat([prompt, self.text.embeddings(prompt)], 1)
        inputs["txt_ids"] = torch.cat([positions, positions[..., : self.text.tokens, :]], -2)
        return (), inputs

    def split(self, sequence: Stream) -> tuple[Stream, Stream, Stream]:
        """Cut [prompt ; negative ; image] into prompt, negative and image."""
        texts = [self.prompt_tokens, self.text.tokens]
        positive, negative, image = sequence.split([*texts, sequence.key.shape[2] - sum(texts)])
        return positive, negative._replace(keep=self.text.keep(self.text.tokens)), image


@dataclass(frozen=True, eq=False)
class Flux2DoubleAttention:
    """Diffusers attention processor for a double block's layer."""

    state: GuidanceState
    inputs: Flux2Inputs

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the layer's output for the image (B, I, W) and both texts (B, P + N, W).

        Args:
            attn: The layer.
            hidden_states: (B, I, W), the image.
            encoder_hidden_states: (B, P + N, W), the prompt and then the negative prompt.
            attention_mask: Unused; the network passes none.
            image_rotary_emb: Rotary embedding of [prompt ; negative ; image].
        """
        image = [attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)]
        projections = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        text = [project(encoder_hidden_states) for project in projections]
        streams = (
            Stream.of(text, attn.heads, attn.norm_added_q, attn.norm_added_k),
            Stream.of(image, attn.heads, attn.norm_q, attn.norm_k),
        )
        sequence = Stream(*(torch.cat(parts, 2) for parts in zip(*(s[:3] for s in streams), strict=True)))
        guided, *both = _attend(self.state, self.inputs, sequence, image_rotary_emb)
        return attn.to_out[1](attn.to_out[0](guided)), attn.to_add_out(torch.cat(both, 1))


@dataclass(frozen=True, eq=False)
class Flux2SingleAttention:
    """Diffusers attention processor for a single block's layer, which holds the block's MLP as well."""

    state: GuidanceState
    inputs: Flux2Inputs

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """Return the layer's output for the whole sequence, (B, P + N + I, W).

        Args:
            attn: The layer.
            hidden_states: (B, P + N + I, W), prompt, negative prompt and image.
            attention_mask: Unused; the network passes none.
            image_rotary_emb: Rotary embedding of the same sequence.
        """
        projected = attn.to_qkv_mlp_proj(hidden_states)
        *features, mlp = projected.split(
            [attn.inner_dim] * 3 + [attn.mlp_hidden_dim * attn.mlp_mult_factor], dim=-1
        )
        sequence = Stream.of(features, attn.heads, attn.norm_q, attn.norm_k)
        guided, *both = _attend(self.state, self.inputs, sequence, image_rotary_emb)
        attended = torch.cat([*both, guided], 1)
        out: Tensor = attn.to_out(torch.cat([attended, attn.mlp_act_fn(mlp)], -1))
        return out


def _attend(
    state: GuidanceState, inputs: Flux2Inputs, sequence: Stream, rotary: Rotary | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attention's output for the guided image, the prompt and the negative prompt."""
    query, key = (apply_rotary_emb(part, rotary, sequence_dim=2) for part in sequence[:2])
    positive, negative, image = inputs.split(sequence._replace(query=query, key=key))
    return attend(state, image, positive, negative)
