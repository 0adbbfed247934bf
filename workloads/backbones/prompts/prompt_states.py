"""Ways from prompts to conditioning, each as the stock pipeline of its family does it by default.

    prompts -> Encoding.frame -> texts -> tokenizer -> token batches -> Encoding.states -> Conditioning

`ENCODINGS` has an entry for each name that a family's `encoding` may have.

Shapes: B batch, S tokens, D text width, P pooled width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder_files import INSTRUCTIONS, SANA_TOKENS

KLEIN_LAYERS = (9, 18, 27)
"""Layers of Qwen3 whose input states FLUX.2 klein takes."""


@dataclass(frozen=True)
class Framed:
    """Texts as a tokenizer gets them."""

    texts: list[str]
    tokens: int
    """Length to which all are padded and truncated."""


@dataclass(frozen=True)
class Encoding:
    """One way from prompts to conditioning."""

    states: Callable[[Sequence[Any], Sequence[Any]], Conditioning]
    """Turns token batches, one for each encoder, into the conditioning of their B prompts."""
    frame: Callable[[Any, Sequence[str], bool], Framed]
    """Frames prompts for a tokenizer; the last argument is true for negative prompts."""
    zeros: str | None = None
    """Option of the pipeline with which empty prompts are encoded as zeros; None: there is none."""


def _plain(tokenizer: Any, prompts: Sequence[str], negative: bool) -> Framed:
    """Leave prompts as they are."""
    return Framed(list(prompts), tokenizer.model_max_length)


def _instructed(tokenizer: Any, prompts: Sequence[str], negative: bool) -> Framed:
    """Put SANA's instruction before prompts, but not before negative ones (arXiv 2410.10629, sec. 2.3).

    A tokenizer that is made for fewer tokens than SANA's has no room for the instruction.
    """
    tokenizer.padding_side = "right"  # the files of Gemma say left
    framed = _plain(tokenizer, prompts, negative)
    if negative or framed.tokens < SANA_TOKENS:
        return framed
    instruction = INSTRUCTIONS["gemma"]
    # Without the begin token and one more, as the pipeline counts.
    tokens = framed.tokens + len(tokenizer(instruction, verbose=False).input_ids) - 2
    return Framed([instruction + prompt for prompt in prompts], tokens)


def _chat(tokenizer: Any, prompts: Sequence[str], negative: bool, *, thinking: bool) -> Framed:
    """Make each prompt the user's message of a chat, up to where the answer begins."""
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=thinking,
        )
        for prompt in prompts
    ]
    return Framed(texts, tokenizer.model_max_length)


def _last_states(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """Stable Diffusion: all last states of CLIP."""
    return Conditioning(encoders[0](batches[0].input_ids).last_hidden_state)


def _masked_last_states(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """PixArt: the last states of T5, and the mask of its tokens."""
    mask = batches[0].attention_mask
    return Conditioning(encoders[0](batches[0].input_ids, attention_mask=mask).last_hidden_state, mask)


def _sana(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """SANA: as PixArt, of the first token and the last 299: the instruction itself is left out."""
    every = _masked_last_states(encoders, batches)
    width = every.embeddings.shape[1]
    kept = [0, *range(1 + max(0, width - SANA_TOKENS), width)]
    return Conditioning(**{name: part[:, kept] for name, part in every.parts.items()})


def _clip_pair(encoders: Sequence[Any], batches: Sequence[Any]) -> tuple[Tensor, list[Tensor]]:
    """Return the penultimate states of CLIP encoders, joined in width, and their outputs' first parts (B, P).

    The first part is the projected embedding of the whole prompt if the encoder has a projection.
    """
    outputs = [
        encoder(batch.input_ids, output_hidden_states=True)
        for encoder, batch in zip(encoders, batches, strict=True)
    ]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return states, [output[0] for output in outputs]


def _sdxl(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """SDXL: the penultimate states of both CLIP encoders, and the second one's embedding of the prompt."""
    states, pooled = _clip_pair(encoders, batches)
    return Conditioning(states, None, pooled[-1])


def _sd3(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """SD3: as SDXL, with zeros up to T5's width; then all last states of T5. The embeddings are joined."""
    states, pooled = _clip_pair(encoders[:2], batches[:2])
    last = encoders[2](batches[2].input_ids)[0]
    states = F.pad(states, (0, last.shape[-1] - states.shape[-1]))
    return Conditioning(torch.cat([states, last], dim=1), None, torch.cat(pooled, dim=-1))


def _qwen3_states(encoder: Any, batch: Any) -> tuple[Tensor, ...]:
    """Return the input states of all layers, and the last states; each (B, S, D)."""
    # The base model has no logits: those of one prompt take 300 MB.
    output = encoder.base_model(
        batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False
    )
    states: tuple[Tensor, ...] = output.hidden_states
    return states


def _klein(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """FLUX.2 klein: the states of three layers of Qwen3, joined in width; padding is not masked."""
    states = _qwen3_states(encoders[0], batches[0])
    return Conditioning(torch.cat([states[layer] for layer in KLEIN_LAYERS], dim=-1))


def _z_image(encoders: Sequence[Any], batches: Sequence[Any]) -> Conditioning:
    """Z-Image: the penultimate states of Qwen3, and the mask of its tokens."""
    return Conditioning(_qwen3_states(encoders[0], batches[0])[-2], batches[0].attention_mask)


ENCODINGS = {
    "clip": Encoding(_last_states, _plain),
    "sdxl": Encoding(_sdxl, _plain, zeros="force_zeros_for_empty_prompt"),
    "t5": Encoding(_masked_last_states, _plain),
    "gemma": Encoding(_sana, _instructed),
    "sd3": Encoding(_sd3, _plain),
    "qwen3_layers": Encoding(_klein, partial(_chat, thinking=False)),
    "qwen3": Encoding(_z_image, partial(_chat, thinking=True)),
}
"""Ways from prompts to conditioning, by the name that families give."""
