"""Text encoders: prompts to conditioning, in a process that holds nothing else.

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
from workloads.backbones.text_encoder_files import encoder_folder

ENCODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "T5EncoderModel": T5EncoderModel,
}


class TextEncoder:
    """The tokenizers and the text encoders of a backbone."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        """Opens them from a diffusers folder or hub id; in bfloat16 on a GPU, where T5 would take 18 GiB.

        Raises:
            ValueError: not a supported pipeline, or a part of it cannot be read.
        """
        self.family: Family = family_of(source)
        folder, dtype = encoder_folder(source), torch.bfloat16 if device == "cuda" else torch.float32
        self._tokenizers = [_tokenizer(source, folder / part) for part in self.family.tokenizers]
        self._encoders = [
            _encoder(source, folder / part, kind, dtype).to(device).eval()
            for part, kind in self.family.text_encoders
        ]
        # SDXL learnt zeros, not an encoding, as the prompt of no words; its pipeline's default.
        self._zeros = self.family.pooled and model_index(source).get("force_zeros_for_empty_prompt", True)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """B prompts -> embeddings (B, S, D), and what else the family takes: mask (B, S), pooled (B, P)."""
        tokens = [self._tokenized(tokenizer, prompts) for tokenizer in self._tokenizers]
        mask = tokens[0].attention_mask if self.family.masked else None
        outputs = [
            encoder(batch.input_ids, attention_mask=mask, output_hidden_states=self.family.pooled)
            for encoder, batch in zip(self._encoders, tokens, strict=True)
        ]
        if not self.family.pooled:
            return Conditioning(outputs[0].last_hidden_state, mask)
        embeddings = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return self._without_empty(Conditioning(embeddings, None, outputs[-1].text_embeds), prompts)

    def _tokenized(self, tokenizer: Any, prompts: Sequence[str]) -> Any:
        return tokenizer(
            [prompt.lower().strip() for prompt in prompts] if self.family.lowercase else list(prompts),
            padding="max_length",
            max_length=min(self.family.tokens, tokenizer.model_max_length),
            truncation=True,
            return_tensors="pt",
        ).to(self._encoders[0].device)

    def _without_empty(self, encoded: Conditioning, prompts: Sequence[str]) -> Conditioning:
        if not self._zeros:
            return encoded
        empty = torch.tensor([not prompt for prompt in prompts], device=encoded.embeddings.device)
        nothing = Conditioning(**{name: torch.zeros_like(part[:1]) for name, part in encoded.parts.items()})
        return encoded.replace(empty, nothing)


def _tokenizer(source: str, folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever the libraries raise for what a user's files hold
        raise _unreadable(source, error) from None


def _encoder(source: str, folder: Path, kind: str, dtype: torch.dtype) -> Any:
    try:
        encoder, loaded = ENCODER_CLASSES[kind].from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # as above
        raise _unreadable(source, error) from None
    # Transformers would go on with what it has drawn at random in their place.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone {source!r}: its text encoder lacks weights, as {missing[0]}")
    return encoder


def _unreadable(source: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(f"backbone {source!r}: its text encoder cannot be read: {reason}")
