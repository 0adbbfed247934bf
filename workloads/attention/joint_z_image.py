"""Guidance in `ZImageTransformer2DModel` (Z-Image): one sequence of image and text, with rotary positions.

The network's own caption embedder and context refiner, which see the text alone, turn the negative prompt
into text states once, when the guidance is made. They follow the sequence, so that all blocks carry
[image ; prompt ; negative]. The negative text takes the positions of a prompt, from 1 on; the image keeps
the positions that follow the prompt.

Shapes: B samples, I tokens of the image, P of the prompts with what pads them, N of the negative prompt,
W width of all heads together, D text width, d width of a head.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workloads.attention.joint import Stream, attend, named_inputs, needed, used_tokens
from workloads.attention.state import GuidanceState, Plan
from workloads.backbones.prompts.conditioning import Conditioning

PADDING = 32
"""Multiple of tokens that image and text are padded to, `SEQ_MULTI_OF` of the network's module."""


def plan(network: Any, negative: Conditioning, state: GuidanceState) -> Plan:
    """Return the changes that guide the attention layers of all blocks after the refiners."""
    text = RefinedText(state, *refine(network, negative))
    processors = {block.attention: ZImageAttention(text) for block in network.layers}
    return Plan(processors, [(network, text.note_image), (network.layers[0], text.append)])


def refine(network: Any, negative: Conditioning) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return what the network makes of the negative prompt before its first block.

    As for a prompt, the learned token pads the text to a multiple of 32, and padding beyond that is cut.

    Args:
        network: The transformer.
        negative: Embeddings (1 or B, S, D) with or without a mask.

    Returns:
        States (1 or B, N, W), mask (1 or B, N) or None, and rotary embedding (N, d / 2).
    """
    dtype = network.cap_pad_token.dtype
    embeddings, lengths = _packed(negative)
    places = torch.arange(_padded(embeddings.shape[1]), device=embeddings.device)
    embedded = network.cap_embedder(embeddings.to(dtype))
    filler = network.cap_pad_token.expand(len(embedded), len(places) - embedded.shape[1], -1)
    states = torch.where(
        (places >= lengths)[..., None], network.cap_pad_token, torch.cat([embedded, filler], 1)
    )
    positions = torch.stack([places + 1, places * 0, places * 0], 1)
    rotary, keep = network.rope_embedder(positions), needed(places < _padded(lengths))
    for block in network.context_refiner:
        states = block(states, keep, rotary.expand(len(states), -1, -1))
    return states, keep, rotary


@dataclass(eq=False)
class RefinedText:
    """The negative text before the first block, and the hooks that put it into the sequence."""

    state: GuidanceState
    states: Tensor
    """(1 or B, N, W)."""
    keep: Tensor | None
    """(1 or B, N), true for a token that may be attended to; None: all of them."""
    rotary: Tensor
    """(N, d / 2), complex."""
    image_tokens: int = 0
    """I of the current call."""

    def note_image(
        self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Forward pre-hook of the network, which notes I.

        Raises:
            ValueError: The images of the call differ in size.
        """
        inputs = named_inputs(network, args, kwargs)
        sizes = {tuple(image.shape[1:]) for image in inputs["x"]}
        if len(sizes) > 1:
            raise ValueError(f"attention guidance takes images of one size, not {sorted(sizes)}")
        frames, height, width = sizes.pop()
        patch, frame_patch = inputs.get("patch_size", 2), inputs.get("f_patch_size", 1)
        self.image_tokens = _padded((frames // frame_patch) * (height // patch) * (width // patch))
        return (), inputs

    def append(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Forward pre-hook of the first block, which puts the negative text after the sequence."""
        sequence, *others = args
        negative = self.state.select(self.states).to(sequence.dtype)
        return (torch.cat([sequence, negative.expand(len(sequence), -1, -1)], 1), *others), kwargs


@dataclass(frozen=True, eq=False)
class ZImageAttention:
    """Diffusers attention processor for one block's layer."""

    text: RefinedText

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        """Return the layer's output for the whole sequence, (B, I + P + N, W).

        Args:
            attn: The layer.
            hidden_states: (B, I + P + N, W), image, prompt and negative prompt.
            encoder_hidden_states: Unused; the network passes none.
            attention_mask: (B, I + P), true for tokens that may be attended to; None: all.
            freqs_cis: Rotary embedding (B, I + P, d / 2) of image and prompt, complex.
        """
        text, image_tokens = self.text, self.text.image_tokens
        assert freqs_cis is not None
        prompt_tokens = freqs_cis.shape[1] - image_tokens
        rotary = torch.cat([freqs_cis, text.rotary.expand(len(freqs_cis), -1, -1)], 1)[:, None]
        features = [attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)]
        sequence = Stream.of(features, attn.heads, attn.norm_q, attn.norm_k)
        query, key = (_rotated(part, rotary) for part in sequence[:2])
        sizes = [image_tokens, prompt_tokens, len(text.rotary)]
        image, positive, negative = sequence._replace(query=query, key=key).split(sizes)
        if attention_mask is not None:
            positive = positive._replace(keep=attention_mask[:, image_tokens:])
        if text.keep is not None:
            negative = negative._replace(keep=text.state.select(text.keep))
        out: Tensor = torch.cat(attend(text.state, image, positive, negative), 1)
        for layer in attn.to_out:
            out = layer(out)
        return out


def _packed(negative: Conditioning) -> tuple[Tensor, Tensor]:
    """Return the embeddings with padding cut, or behind the tokens, and the tokens of each row, (B, 1)."""
    embeddings, mask = negative.embeddings, negative.mask
    if mask is None:
        return embeddings, torch.tensor([[embeddings.shape[1]]], device=embeddings.device)
    order = mask.bool().long().argsort(dim=1, descending=True, stable=True)
    packed = embeddings.gather(1, order[..., None].expand_as(embeddings))
    length = used_tokens(mask.gather(1, order), mask.shape[1])
    return packed[:, :length], mask.bool().sum(1, keepdim=True)


def _padded(tokens: Any) -> Any:
    """Return the next multiple of 32, of a number or of each element of a tensor."""
    return (tokens + PADDING - 1) // PADDING * PADDING


def _rotated(features: Tensor, rotary: Tensor) -> Tensor:
    """Turn pairs of features (B, h, n, d) by `rotary` (B, 1, n, d / 2), in float32 as the network does."""
    pairs = torch.view_as_complex(features.float().reshape(*features.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotary).flatten(3).type_as(features)
