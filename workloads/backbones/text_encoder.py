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
from workloads.backbones.weight_files import find_weights

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
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._tokenizers = [load_tokenizer(source, name) for name in self.family.tokenizers]
        self._encoders: list[Any] = [
            load_text_encoder(source, name, kind, dtype).to(device).eval()
            for name, kind in self.family.text_encoders
        ]
        # SDXL was trained with zeros, not an encoding, for the empty prompt; its pipeline's default.
        self._zeros = self.family.pooled and model_index(source).get("force_zeros_for_empty_prompt", True)

    @property
    def tokens(self) -> int:
        """Most tokens of a prompt that the encoders read, those of its begin and end included."""
        return min(int(tokenizer.model_max_length) for tokenizer in self._tokenizers)

    def dropped(self, prompts: Sequence[str]) -> list[str | None]:
        """Return for each prompt the end that is beyond the encoders' tokens; None for one that fits."""
        texts = self._normalise(prompts)
        ends: list[str | None] = [None] * len(texts)
        for tokenizer in self._tokenizers:
            limit = tokenizer.model_max_length
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
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoders[0].device)

    def _normalise(self, prompts: Sequence[str]) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts] if self.family.lowercase else list(prompts)

    def _zero_empty_prompts(self, encoded: Conditioning, prompts: Sequence[str]) -> Conditioning:
        if not self._zeros:
            return encoded
        empty = torch.tensor([not prompt for prompt in prompts], device=encoded.embeddings.device)
        zeros = Conditioning(**{name: torch.zeros_like(part[:1]) for name, part in encoded.parts.items()})
        return encoded.replace(empty, zeros)


def load_tokenizer(source: str, part: str) -> Any:
    """Load the tokenizer in the component `part` of `source`, a diffusers folder or hub id.

    Its length is at most that of the family's prompts.

    Raises:
        ValueError: Its files are missing or cannot be read.
    """
    folder = encoder_folder(source) / part
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds for invalid files
        reason = _sentencepiece_error(folder / "spiece.model") or error
        raise _unreadable(source, part, reason) from None
    # Stock pipelines pad to this length, which some tokenizers do not state.
    tokenizer.model_max_length = min(tokenizer.model_max_length, family_of(source).tokens)
    return tokenizer


def _sentencepiece_error(file: Path) -> Exception | None:
    """Return why `file` is no sentencepiece model that can be read here; None if there is none or it can.

    transformers then tries another format, and raises that one's error.
    """
    if not file.exists():
        return None
    try:
        from sentencepiece import sentencepiece_model_pb2

        parser: Any = sentencepiece_model_pb2  # its classes are made when it is imported
        parser.ModelProto.FromString(file.read_bytes())
    except ImportError as error:
        return ImportError(f"sentencepiece and protobuf do not fit each other: {error}")
    except Exception as error:  # protobuf has its own kinds
        return ValueError(f"{file.name} is no sentencepiece model ({error}): download it again")
    return None


def load_text_encoder(source: str, part: str, kind: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load the text encoder of the class `kind` in the component `part` of `source`, with all its weights.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config.
    """
    folder = encoder_folder(source)
    variant = find_weights(str(folder), part).variant
    try:
        encoder, loaded = ENCODER_CLASSES[kind].from_pretrained(
            folder / part, dtype=dtype, use_safetensors=True, variant=variant, output_loading_info=True
        )
    except Exception as error:  # as above
        raise _unreadable(source, part, error) from None
    # transformers initialises missing weights at random and continues.
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"backbone {source!r}: its {part} lacks weights, such as {missing[0]}")
    opened: PreTrainedModel = encoder
    return opened


def _unreadable(source: str, part: str, error: Exception) -> ValueError:
    return ValueError(f"backbone {source!r}: its {part} cannot be read: {one_line(error)}")
