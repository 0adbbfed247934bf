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
    Gemma2Model,
    PreTrainedModel,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5EncoderModel,
)

from workloads.backbones.families import Family, family_of, model_index
from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.entry import Lora
from workloads.backbones.loras.merge import merged
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.prompt_states import ENCODINGS, Framed
from workloads.backbones.prompts.text_encoder_files import encoder_folder
from workloads.backbones.weight_files import find_weights

ENCODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    "CLIPTextModel": CLIPTextModel,
    "CLIPTextModelWithProjection": CLIPTextModelWithProjection,
    "Gemma2Model": Gemma2Model,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
    "Qwen3Model": Qwen3Model,
    "T5EncoderModel": T5EncoderModel,
}


class TextEncoder:
    """The tokenizers and the text encoders of a backbone."""

    def __init__(self, source: str, device: str = "cpu", loras: Sequence[Lora] = ()) -> None:
        """Open the text encoders of a diffusers folder or hub id, with `loras` merged into them.

        On a GPU they are in bfloat16, because T5 would need 18 GiB in float32.

        Raises:
            ValueError: The pipeline is not supported, a component cannot be read, or a LoRA does not fit.
        """
        self.family: Family = family_of(source)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._tokenizers = [load_tokenizer(source, name) for name in self.family.tokenizers]
        self._encoders: list[Any] = [
            load_text_encoder(source, name, kind, dtype, loras).to(device).eval()
            for name, kind in self.family.text_encoders
        ]
        self._encoding = ENCODINGS[self.family.encoding]
        option = self._encoding.zeros
        # SDXL was trained with zeros, not an encoding, for the empty prompt; its pipeline's default.
        self._zeros = option is not None and model_index(source).get(option, True)

    @property
    def tokens(self) -> int:
        """Most tokens of a prompt that any encoder reads, those around it included."""
        return max(int(tokenizer.model_max_length) for tokenizer in self._tokenizers)

    def dropped(self, prompts: Sequence[str], *, negative: bool = False) -> list[str | None]:
        """Return for each prompt the end that is beyond the tokens of every encoder; None for one that fits.

        `negative` is as in `encode`.
        """
        texts = self._normalise(prompts)
        ends = [self._cut(tokenizer, texts, negative) for tokenizer in self._tokenizers]
        return [None if None in row else min(row, key=len) for row in zip(*ends, strict=True)]

    def _cut(self, tokenizer: Any, prompts: list[str], negative: bool) -> list[str | None]:
        """Return the end of each prompt that one tokenizer cuts; None where it cuts nothing of the prompt."""
        framed = self._encoding.frame(tokenizer, prompts, negative)
        rows = tokenizer(framed.texts, truncation=False, verbose=False).input_ids
        ends: list[str | None] = [None] * len(rows)
        for row, ids in enumerate(rows):
            if len(ids) > framed.tokens:
                after = framed.texts[row].rpartition(prompts[row])[2]
                ends[row] = _end(tokenizer, ids, framed.tokens, after)
        return ends

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, negative: bool = False) -> Conditioning:
        """Encode B prompts to embeddings (B, S, D) and, in some families, mask (B, S) or pooled (B, P).

        `negative` marks prompts of what a picture shall not show, and the empty prompt of guidance: SANA
        encodes them without the instruction that it puts before others.
        """
        texts = self._normalise(prompts)
        framed = [self._encoding.frame(tokenizer, texts, negative) for tokenizer in self._tokenizers]
        batches = [self._tokenize(*each) for each in zip(self._tokenizers, framed, strict=True)]
        encoded = self._encoding.states(self._encoders, batches)
        return self._zero_empty_prompts(encoded, prompts) if self._zeros else encoded

    def _tokenize(self, tokenizer: Any, framed: Framed) -> Any:
        return tokenizer(
            framed.texts,
            padding="max_length",
            max_length=framed.tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoders[0].device)

    def _normalise(self, prompts: Sequence[str]) -> list[str]:
        return [prompt.lower().strip() for prompt in prompts] if self.family.lowercase else list(prompts)

    def _zero_empty_prompts(self, encoded: Conditioning, prompts: Sequence[str]) -> Conditioning:
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
    tokenizer.model_max_length = min(tokenizer.model_max_length, family_of(source).most_tokens(part))
    return tokenizer


def _end(tokenizer: Any, ids: list[int], tokens: int, after: str) -> str | None:
    """Return the end of a prompt that is cut from `ids`, a row of more than `tokens`; None if it is read.

    A row that is cut keeps its closing token, but nothing of the text `after` the prompt.
    """
    closing = int(ids[-1] == tokenizer.eos_token_id)
    length = len(ids) - closing - len(tokenizer(after, add_special_tokens=False).input_ids)
    end = ids[tokens - closing : length]
    return str(tokenizer.decode(end)) if end else None


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


def load_text_encoder(
    source: str, part: str, kind: str, dtype: torch.dtype, loras: Sequence[Lora] = ()
) -> PreTrainedModel:
    """Load the text encoder of the class `kind` in the component `part` of `source`, with `loras` merged.

    Raises:
        ValueError: The weights are missing, are not safetensors, or do not fit the config; or a LoRA does not
            fit the encoder.
    """
    return merged(lambda at: _load_encoder(source, part, kind, at), source, part, loras, dtype)


def _load_encoder(source: str, part: str, kind: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a text encoder with all its weights."""
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
