"""Agreement of pictures with the prompt and with the negative prompt, by a CLIP model.

Shapes: B batch, N pictures, P pixels a side, T texts, D width of the common space.
"""

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from workloads.backbones.load_errors import NOT_LOADED, describe
from workloads.images import to_image
from workloads.miniature import clip_folder
from workloads.scorers.columns import column, mean_of, share_of
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measured, Request, Scorer

NEUTRAL = "a photo"


class ClipAgreement(Scorer):
    """Cosines with the two prompts (CLIP+ and CLIP-), and whether the negative is shown.

    The negative counts as shown where, of the texts "a photo of <negative>" and "a photo", CLIP
    as a zero-shot classifier (Radford et al. 2021) gives the first a probability over a threshold.
    """

    name: ClassVar[str] = "clip"

    def __init__(self, model: str, threshold: float = 0.5, prefix: str = "A photo depicts ") -> None:
        """Takes note of the model.

        Args:
            model: folder of a CLIP model in transformers' format, its id on the hub, which must
                be in the local cache already, or `miniature/clip`.
            threshold: probability over which the negative counts as shown.
            prefix: put before the texts of CLIP+ and CLIP-; this one is the field's custom
                (Hessel et al. 2021), and absolute numbers hold only for it.
        """
        self._source, self._threshold, self._prefix = clip_folder(model), threshold, prefix
        self._model: Any = None

    def load(self, device: str = "cpu") -> None:
        options: dict[str, Any] = {"local_files_only": True}
        try:
            model = CLIPModel.from_pretrained(
                self._source, use_safetensors=True, dtype=torch.float32, **options
            )
            self._tokenizer = AutoTokenizer.from_pretrained(self._source, trust_remote_code=False, **options)
            # Pillow's, wherever: torchvision's, taken where there is one, resizes otherwise.
            self._processor = CLIPImageProcessorPil.from_pretrained(self._source, **options)
        except NOT_LOADED as error:
            raise ValueError(
                f"scorer 'clip': {self._source!r} is no CLIP model with safetensors on this machine; "
                f"fetch one with `hf download <hub id>` and name it or its folder: {describe(error)}"
            ) from None
        self._model = model.to(device).eval()

    @torch.no_grad()
    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """`clip_plus`, `clip_minus` and `negative_shown`, each (B,); the latter two of negatives."""
        if self._model is None:
            raise RuntimeError("scorer 'clip': call load before measure")
        seen, texts = self._see(pictures), self._texts(requests)
        read = dict(zip(texts, self._read(texts), strict=True))
        pairs = list(zip(seen, requests, strict=True))
        negatives = [(p, r.negative_prompt) for p, r in pairs]
        return {
            "clip_plus": column(float(p @ read[self._prefix + r.prompt]) for p, r in pairs),
            "clip_minus": column(float(p @ read[self._prefix + n]) if n else nan for p, n in negatives),
            "negative_shown": column(self._shown(p, read, n) if n else nan for p, n in negatives),
        }

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """Means of CLIP+ and CLIP-, and the share of pictures that show their negative."""
        name = Path(self._source).name if Path(self._source).is_dir() else self._source
        cosine = f"cosine by CLIP {name}, text {self._prefix + '...'!r}"
        shown = f"CLIP {name}: 'a photo of <negative>' over '{NEUTRAL}' with p > {self._threshold:g}"
        return [
            *mean_of("clip_plus", measured["clip_plus"], cosine),
            *mean_of("clip_minus", measured["clip_minus"], cosine),
            *share_of("negative_rate", measured["negative_shown"], shown),
        ]

    def _texts(self, requests: Sequence[Request]) -> list[str]:
        """Every text that these requests need, once."""
        negatives = [r.negative_prompt for r in requests if r.negative_prompt]
        compared = [self._prefix + text for text in [*(r.prompt for r in requests), *negatives]]
        return list(dict.fromkeys([NEUTRAL, *compared, *map(_photo_of, negatives)]))

    def _shown(self, picture: Tensor, read: dict[str, Tensor], negative: str) -> float:
        scale = self._model.logit_scale.exp().cpu()
        # Of two texts the softmax is the sigmoid of their difference.
        probability = torch.sigmoid(scale * (picture @ (read[_photo_of(negative)] - read[NEUTRAL])))
        return float(probability > self._threshold)

    def _see(self, pictures: Tensor) -> Tensor:
        """(B, 3, P, P) in [-1, 1] -> (B, D) of length 1, on the CPU."""
        images = [to_image(picture) for picture in pictures]
        inputs = self._processor(images=images, return_tensors="pt").to(self._model.device)
        return _unit(self._model.get_image_features(**inputs).pooler_output)

    def _read(self, texts: Sequence[str]) -> Tensor:
        """T texts, cut at the token limit -> (T, D) of length 1, on the CPU."""
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._model.device)
        return _unit(self._model.get_text_features(**inputs).pooler_output)


def _photo_of(negative: str) -> str:
    return f"{NEUTRAL} of {negative}"


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()
