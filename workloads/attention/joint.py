"""Guided joint attention: one image stream between the text streams of the prompt and of the negative prompt.

In joint attention a text token attends to the image, so the text changes from block to block. The negative
prompt therefore has a text stream of its own beside that of the prompt. Queries, keys and values of the image
are computed once for both, and the guided features replace the image's rows of the attention's output, with
heads merged and before the output projection; text streams keep their own results (NAG, arXiv 2505.21179, its
code for Flux, and ComfyUI-NAG for SD3). Where a block is a single stream, its guided image rows serve both
texts, so projections and MLP of the image are computed once as well.

A network family needs an adapter: how the negative text gets into the network's text input, and attention
processors that split their rows into `Stream`s and call `attend`. The blocks' own code carries both texts.

Shapes: B samples, I tokens of the image, P of the prompt, N of the negative prompt, n of any stream, h heads,
d width of a head, W width of all heads together, D text width.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads.attention.state import GuidanceState
from workloads.backbones.prompts.conditioning import Conditioning


class Stream(NamedTuple):
    """The part of one stream in an attention layer."""

    query: Tensor
    """(B, h, n, d); without rows if nothing of this stream is needed after the layer."""
    key: Tensor
    """(B, h, n, d)."""
    value: Tensor
    """(B, h, n, d)."""
    keep: Tensor | None = None
    """(1 or B, n), true for a token that may be attended to; None: all of them."""

    @classmethod
    def of(
        cls, features: Sequence[Tensor], heads: int, norm_query: nn.Module | None, norm_key: nn.Module | None
    ) -> "Stream":
        """Split query, key and value features, each (B, n, W), into heads; norms are those of QK-norm."""
        shape = (heads, features[0].shape[2] // heads)
        query, key, value = (part.view(*part.shape[:2], *shape).transpose(1, 2) for part in features)
        query = query if norm_query is None else norm_query(query)
        return cls(query, key if norm_key is None else norm_key(key), value)

    def split(self, sizes: Sequence[int]) -> "list[Stream]":
        """Cut a stream that has all tokens in a row into streams of `sizes` tokens."""
        cut = (torch.split(part, list(sizes), dim=2) for part in self[:3])
        return [Stream(*parts) for parts in zip(*cut, strict=True)]


def attend(
    state: GuidanceState, image: Stream, positive: Stream, negative: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attention's output for the guided image, prompt and negative prompt, each (B, n, W).

    NAG guides the image between its attention to [prompt ; image] and to [negative ; image]. With VSF the
    image attends to [prompt ; image ; negative] in one softmax, the negative's values flipped. In both, the
    prompt attends to [prompt ; image], and the negative, its values as they are, to [negative ; image].
    """
    if state.one_softmax:
        flipped = negative._replace(value=state.flip(negative.value))
        guided = _attention(image.query, (positive, image, flipped))
        plus_text, minus_text = (_attention(text.query, (text, image)) for text in (positive, negative))
        return guided, plus_text, minus_text
    (plus_text, plus), (minus_text, minus) = (_branch(text, image) for text in (positive, negative))
    return state.combine(plus, minus), plus_text, minus_text


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a call of `module` by the names of its `forward`."""
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def used_tokens(mask: Tensor | None, tokens: int) -> int:
    """Return the number of tokens up to the last that is not padding in every row."""
    if mask is None or mask.is_meta or not mask.any():
        return tokens
    return int(mask.any(0).nonzero().max()) + 1


def needed(keep: Tensor) -> Tensor | None:
    """Return the mask `keep`, or None if it cuts nothing; a mask on the meta device is kept."""
    return keep if keep.is_meta or not keep.all() else None


class NegativeText:
    """The text input of the negative prompt."""

    def __init__(self, negative: Conditioning, state: GuidanceState) -> None:
        """Drop the last tokens that are padding in every row of `negative`."""
        length = used_tokens(negative.mask, negative.embeddings.shape[1])
        self._embeddings = negative.embeddings[:, :length]
        self._keep = None if negative.mask is None else needed(negative.mask[:, :length].bool())
        self._pooled, self._state = negative.pooled, state
        self.tokens = length

    def embeddings(self, like: Tensor) -> Tensor:
        """Return the embeddings (B, N, D) for a call with the prompts `like` (B, P, D)."""
        return self._rows(self._embeddings, like)

    def pooled(self, like: Tensor) -> Tensor:
        """Return the pooled embeddings for a call with those of the prompts, `like` (B, width).

        Raises:
            ValueError: The negative prompt has none.
        """
        if self._pooled is None:
            raise ValueError("the negative prompt has no pooled embeddings, which this network takes")
        return self._rows(self._pooled, like)

    def keep(self, tokens: int) -> Tensor | None:
        """Return the mask (1 or B, tokens) of the tokens to attend to, after padding to `tokens`."""
        if self._keep is None and tokens == self.tokens:
            return None
        keep = self._keep
        if keep is None:
            keep = torch.ones(1, self.tokens, dtype=torch.bool, device=self._embeddings.device)
        return F.pad(self._state.select(keep), (0, tokens - self.tokens))

    def check_fits(self, tokens: int) -> None:
        """Check that the negative prompt is at most as long as the `tokens` of the prompt.

        Raises:
            ValueError: It is longer.
        """
        if self.tokens > tokens:
            raise ValueError(
                f"the negative prompt has {self.tokens} tokens, the prompt {tokens}: encode both to as many"
            )

    def _rows(self, tensor: Tensor, like: Tensor) -> Tensor:
        rows = self._state.select(tensor).to(like.dtype)
        return rows.expand(len(like), *rows.shape[1:])


def _branch(text: Stream, image: Stream) -> tuple[Tensor, Tensor]:
    """Return the attention of [text ; image] to itself, for the text and for the image, each (B, n, W)."""
    both = _attention(torch.cat([text.query, image.query], 2), (text, image))
    tokens = text.query.shape[2]
    return both[:, :tokens], both[:, tokens:]


def _attention(query: Tensor, streams: Sequence[Stream]) -> Tensor:
    """Return the attention (B, n, W) of `query` (B, h, n, d) to the tokens of `streams` in one softmax."""
    key, value = (torch.cat(parts, 2) for parts in zip(*(stream[1:3] for stream in streams), strict=True))
    mask = _joint_mask(streams)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def _joint_mask(streams: Sequence[Stream]) -> Tensor | None:
    """Return the mask (B, 1, 1, n) over the tokens of all streams; None if all may be attended to."""
    if all(stream.keep is None for stream in streams):
        return None
    keeps = []
    for stream in streams:
        keep = stream.key.new_ones(1, 1, dtype=torch.bool) if stream.keep is None else stream.keep
        keeps.append(keep.expand(len(stream.key), stream.key.shape[2]))
    return torch.cat(keeps, 1)[:, None, None, :]
