"""Text encoders: from prompts to conditioning, in a process that holds no other network.

Shapes: B batch, S tokens, D text width, P pooled width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    T5EncoderModel,
)

from workloads.backbones.conditioning import Conditioning
from workloads.backbones.families import Family, family_of, model_index
from workloads.backbones.load_errors import one_line
from workloads.backbones.text_encoder_files import encoder_folder

ENCODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "T5EncoderModel": T5EncoderModel,
}


class TextEncoder:
    """The tokenizers and the text encoders of a backbone."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Open the text encoders of a diffusers folder or hub id.

        On a GPU they are in bfloat16, because T5 would need 18 GiB in float32.

        Raises:
            ValueError: The pipeline is not supported, or a component cannot be read.
        """
        self.family: Family = family_of(source)
        folder, dtype = encoder_folder(source), torch.bfloat16 if device == "cuda" else torch.float32
        self._tokenizers = [_load_tokenizer(source, folder / name) for name in self.family.tokenizers]
        self._encoders = [
            _load_encoder(source, folder / name, kind, dtype).to(device).eval()
            for name, kind in self.family.text_encoders
        ]
        # SDXL was trained with zeros, not an encoding, for the empty prompt; its pipeline's default.
        self._zeros = self.family.pooled and model_index(source).get("force_zeros_for_empty_prompt", True)

    @property
    def tokens(self) -> int:
        """Most tokens of a prompt that the encoders read, those of its begin and end included."""
        return min(self._limit(tokenizer) for tokenizer in self._tokenizers)

    def dropped(self, prompts: Sequence[str]) -> list[str | None]:
        """Return for each prompt the end that is beyond the encoders' tokens; None for one that fits."""
        texts = self._normalise(prompts)
        ends: list[str | None] = [None] * len(texts)
        for tokenizer in self._tokenizers:
            limit = self._limit(tokenizer)
            rows = tokenizer(texts, truncation=False, verbose=False).input_ids
            # A prompt that is cut keeps its closing token.
            cut = {
                row: tokenizer.decode(ids[limit - 1 : -1]) for row, ids in enumerate(rows) if len(ids) > limit
            }
            ends = [cut.get(row, end) for row, end in enumerate(ends)]
        return ends

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts to embeddings (B, S, D) and, in some families, mask (B, S) or pooled (B, P)."""
        tokens = [self._tokenize(tokenizer, prompts) for tokenizer in self._tokenizers]
        mask = tokens[0].attention_mask if self.family.masked else None
        outputs = [
            encoder(batch.input_ids, attention_mask=mask, output_hidden_states=self.family.pooled)
            for encoder, batch in zip(self._encoders, tokens, strict=True)
        ]
        if not self.family.pooled:
            return Conditioning(outputs[0].last_hidden_state, mask)
        embeddings = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return self._zero_empty_prompts(Conditioning(embeddings, None, outputs[-1].text_embeds), prompts)

    def _tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Any:
        return tokenizer(
            self._normalise(prompts),
            padding="max_length",
            max_length=self._limit(tokenizer),
            truncation=True,
            return_tensors="pt",
        ).to(self._encoders[0].device)

    def _normalise(self, prompts: Sequence[str]) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts] if self.family.lowercase else list(prompts)

    def _limit(self, tokenizer: Any) -> int:
        return min(self.family.tokens, int(tokenizer.model_max_length))

    def _zero_empty_prompts(self, encoded: Conditioning, prompts: Sequence[str]) -> Conditioning:
        if not self._zeros:
            return encoded
        empty = torch.tensor([not prompt for prompt in prompts], device=encoded.embeddings.device)
        zeros = Conditioning(**{name: torch.zeros_like(part[:1]) for name, part in encoded.parts.items()})
        return encoded.replace(empty, zeros)


def _load_tokenizer(source: str, folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds for invalid files
        raise _unreadable(source, error) from None


def _load_encoder(source: str, folder: Path, kind: str, dtype: torch.dtype) -> Any:
    try:
        encoder, loaded = ENCODER_CLASSES[kind].from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # as above
        raise _unreadable(source, error) from None
    # transformers initialises missing weights at random and continues.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone {source!r}: its text encoder lacks weights, such as {missing[0]}")
    return encoder


def _unreadable(source: str, error: Exception) -> ValueError:
    return ValueError(f"backbone {source!r}: its text encoder cannot be read: {one_line(error)}")
