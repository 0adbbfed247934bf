"""A CLIP model as a loss needs it: opened from what is on this machine, and its text half for prompts.

Shapes: N texts, D width of CLIP's space.
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
TEXTS_AT_ONCE = 256


def open_clip(model: str, device: torch.device) -> Any:
    """The frozen float32 `CLIPModel`; on the device "meta" without weights.

    Raises:
        ValueError: it is not on this machine, or is none.
    """
    try:
        return _opened(clip_folder(model), device)
    except NOT_LOADED as error:
        raise missing(model, error) from None


def _opened(source: str, device: torch.device) -> Any:
    if device == META:
        with META:
            model: Any = CLIPModel(CLIPConfig.from_pretrained(source, local_files_only=True))
    else:
        options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        model = CLIPModel.from_pretrained(source, dtype=torch.float32, **options).to(device)
    return model.requires_grad_(False).eval()


class ClipText:
    """The text half of a CLIP model, for the stage that makes prompts ready."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        """Opens it.

        Raises:
            ValueError: the model is not on this machine, or is none.
        """
        self._model = open_clip(model, torch.device(device))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                clip_folder(model), trust_remote_code=False, local_files_only=True
            )
        except NOT_LOADED as error:
            raise missing(model, error) from None
        del self._model.vision_model

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """N prompts, cut at the token limit -> (N, D) of length 1, on the CPU."""
        parts = [prompts[row : row + TEXTS_AT_ONCE] for row in range(0, len(prompts), TEXTS_AT_ONCE)]
        return torch.cat([self._read(part) for part in parts])

    def _read(self, prompts: Sequence[str]) -> Tensor:
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._model.device)
        return F.normalize(self._model.get_text_features(**inputs).pooler_output, dim=-1).cpu()


def missing(model: str, error: BaseException) -> ValueError:
    """One line about a model that cannot be opened, and what to do."""
    return ValueError(
        f"train.clip: model {model!r} is no CLIP model with safetensors on this machine; fetch one with "
        f"`hf download <hub id>` and name it or its folder, or take miniature/clip: {describe(error)}"
    )
