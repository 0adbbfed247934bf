"""CLIP scores: agreement of images with their prompts and negative prompts.

Shapes: B batch, N images, P image height and width in pixels, T texts, D width of CLIP's embedding space.
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
from workloads.scorers.aggregation import as_values, mean_score, share_score
from workloads.scorers.score import Score
from workloads.scorers.scorer import Measurements, Request, Scorer

NEUTRAL = "a photo"


class ClipAgreement(Scorer):
    """Cosines with the prompt (CLIP+) and the negative prompt (CLIP-), and rate of shown negatives.

    An image shows its negative prompt if CLIP as a zero-shot classifier (Radford et al. 2021) of the
    texts "a photo of <negative>" and "a photo" gives the first a probability over a threshold.
    """

    name: ClassVar[str] = "clip"

    def __init__(self, model: str, threshold: float = 0.5, prefix: str = "A photo depicts ") -> None:
        """Store the options.

        Args:
            model: folder of a CLIP model in transformers' format, its id on the hub (which must be in
                the local cache), or `miniature/clip`.
            threshold: probability over which the negative prompt counts as shown.
            prefix: put before the texts of CLIP+ and CLIP-. The default is the usual one (Hessel et al.
                2021); absolute values are comparable for the same prefix only.
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
            # The automatic class would use torchvision where that is installed, which resizes differently.
            self._processor = CLIPImageProcessorPil.from_pretrained(self._source, **options)
        except NOT_LOADED as error:
            raise ValueError(
                f"scorer 'clip': no CLIP model with safetensors weights found for {self._source!r} on this "
                "machine; fetch one with `hf download <hub id>` and set `weights` to its id or folder: "
                f"{describe(error)}"
            ) from None
        self._model = model.to(device).eval()

    @torch.no_grad()
    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `clip_plus`, `clip_minus` and `negative_shown`, each (B,).

        The latter two are NaN for a request without a negative prompt.
        """
        if self._model is None:
            raise RuntimeError("scorer 'clip': call load before measure")
        embedded, texts = self._embed_images(images), self._texts(requests)
        by_text = dict(zip(texts, self._embed_texts(texts), strict=True))
        pairs = list(zip(embedded, requests, strict=True))
        negatives = [(image, request.negative_prompt) for image, request in pairs]
        return {
            "clip_plus": as_values(float(i @ by_text[self._prefix + r.prompt]) for i, r in pairs),
            "clip_minus": as_values(float(i @ by_text[self._prefix + n]) if n else nan for i, n in negatives),
            "negative_shown": as_values(self._shown(i, by_text, n) if n else nan for i, n in negatives),
        }

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return the means of CLIP+ and CLIP-, and the share of images that show their negative prompt."""
        name = Path(self._source).name if Path(self._source).is_dir() else self._source
        cosine = f"cosine by CLIP {name}, text {self._prefix + '...'!r}"
        shown = f"CLIP {name}: 'a photo of <negative>' over '{NEUTRAL}' with p > {self._threshold:g}"
        return [
            *mean_score("clip_plus", measured["clip_plus"], cosine),
            *mean_score("clip_minus", measured["clip_minus"], cosine),
            *share_score("negative_rate", measured["negative_shown"], shown),
        ]

    def _texts(self, requests: Sequence[Request]) -> list[str]:
        """Return every text that these requests need, without repetition."""
        negatives = [r.negative_prompt for r in requests if r.negative_prompt]
        compared = [self._prefix + text for text in [*(r.prompt for r in requests), *negatives]]
        return list(dict.fromkeys([NEUTRAL, *compared, *map(_photo_of, negatives)]))

    def _shown(self, image: Tensor, by_text: dict[str, Tensor], negative: str) -> float:
        """Return 1 if an image embedding (D,) shows the negative prompt, else 0."""
        scale = self._model.logit_scale.exp().cpu()
        # The softmax over two texts is the sigmoid of the difference of their logits.
        probability = torch.sigmoid(scale * (image @ (by_text[_photo_of(negative)] - by_text[NEUTRAL])))
        return float(probability > self._threshold)

    def _embed_images(self, images: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, D), on the CPU, of images (B, 3, P, P) in [-1, 1]."""
        inputs = self._processor(images=[to_image(image) for image in images], return_tensors="pt")
        return _unit(self._model.get_image_features(**inputs.to(self._model.device)).pooler_output)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (T, D), on the CPU, of T texts, truncated at the token limit."""
        limit = self._model.config.text_config.max_position_embeddings
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self._model.device)
        return _unit(self._model.get_text_features(**inputs).pooler_output)


def _photo_of(negative: str) -> str:
    return f"{NEUTRAL} of {negative}"


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()
