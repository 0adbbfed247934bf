"""Loading of CLIP models for the CLIP loss, and the text encoder for its column of text embeddings.

Shapes: N texts, D width of CLIP's embedding space.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from workloads.backbones.load_errors import NOT_LOADED, describe
from workloads.miniature import clip_folder

META = torch.device("meta")
TEXT_BATCH_SIZE = 256


def open_clip(model: str, device: torch.device) -> Any:
    """Return the frozen float32 `CLIPModel`; on the device "meta" it has no weights.

    Raises:
        ValueError: the model is not on this machine, or is not a CLIP model.
    """
    try:
        return _load(clip_folder(model), device)
    except NOT_LOADED as error:
        raise not_found(model, error) from None


def _load(source: str, device: torch.device) -> Any:
    if device == META:
        with META:
            model: Any = CLIPModel(CLIPConfig.from_pretrained(source, local_files_only=True))
    else:
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        model = CLIPModel.from_pretrained(source, dtype=torch.float32, **options).to(device)
    return model.requires_grad_(False).eval()


class ClipTextEncoder:
    """The text encoder of a CLIP model, for the data stage."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Load the tokenizer and the weights; the image encoder is dropped.

        Raises:
            ValueError: the model is not on this machine, or is not a CLIP model.
        """
        self._model = open_clip(model, torch.device(device))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                clip_folder(model), trust_remote_code=False, local_files_only=True
            )
        except NOT_LOADED as error:
            raise not_found(model, error) from None
        del self._model.vision_model

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (N, D), on the CPU, of N prompts, truncated at the token limit."""
        rows = range(0, len(prompts), TEXT_BATCH_SIZE)
        return torch.cat([self._embed(prompts[row : row + TEXT_BATCH_SIZE]) for row in rows])

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._model.device)
        return F.normalize(self._model.get_text_features(**inputs).pooler_output, dim=-1).cpu()


def not_found(model: str, error: BaseException) -> ValueError:
    """Return a one-line error about a model that cannot be loaded, with the command that fetches one."""
    return ValueError(
        f"train.clip: no CLIP model with safetensors weights found for {model!r} on this machine; fetch one "
        "with `hf download <hub id>` and set train.clip.model to its id or folder, or to miniature/clip: "
        f"{describe(error)}"
    )
