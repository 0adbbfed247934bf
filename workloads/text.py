"""Text encoders: prompts to conditioning, in a process that holds nothing else.

Shapes: B batch, S tokens, D text width.
"""

from collections.abc import Sequence

import torch
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedModel, T5EncoderModel

from workloads.conditioning import Conditioning
from workloads.encoder_files import encoder_folder
from workloads.families import Family, family_of

ENCODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    "CLIPTextModel": CLIPTextModel,
    "T5EncoderModel": T5EncoderModel,
}


class TextEncoder:
    """The tokenizer and the text encoder of a backbone."""

    def __init__(self, source: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Opens them from a diffusers folder or hub id.

        Raises:
            ValueError: not a supported pipeline, or a part of it cannot be read.
        """
        self.family: Family = family_of(source)
        folder = encoder_folder(source)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
            encoder = ENCODER_CLASSES[self.family.text_encoder].from_pretrained(
                folder / "text_encoder", dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"backbone {source!r}: its text encoder cannot be read: {reason}") from None
        self._encoder = encoder.to(device).eval()
        self._tokens = min(self.family.tokens, self._tokenizer.model_max_length)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """B prompts -> embeddings (B, S, D) and, for masked families, their mask (B, S)."""
        batch = self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self._tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoder.device)
        if not self.family.masked:
            return Conditioning(self._encoder(batch.input_ids).last_hidden_state)
        states = self._encoder(batch.input_ids, attention_mask=batch.attention_mask)
        return Conditioning(states.last_hidden_state, batch.attention_mask)
