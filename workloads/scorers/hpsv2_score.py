"""HPSv2: the Human Preference Score, a CLIP model fine-tuned on human choices between images.

Wu et al., "Human Preference Score v2" (arXiv 2306.09341); weights xswu/HPSv2, v2.0 and v2.1, whose
scores are not comparable. The values are those of `hpsv2.score` (about 0.2 to 0.35), computed in
batches; published tables and `hpsv2.evaluate` multiply them by 100.

Shapes: B batch, N images, P image height and width in pixels.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor

from workloads.scorers.hpsv2_package import (
    ARCHITECTURE,
    CHECKPOINTS,
    REPOSITORY,
    PreferenceModel,
    build,
    read_weights,
)
from workloads.scorers.score import Score, mean
from workloads.scorers.scorer import Measurements, Request, Scorer


class HPSv2(Scorer):
    """The human preference score; its metric is named with the version, as in `hps_v2.1`.

    Computed in fp32 on a CPU, and on a GPU in the mixed precision that the package uses there.
    """

    name = "hpsv2"

    def __init__(
        self, version: str = "v2.1", weights: str | None = None, architecture: str = ARCHITECTURE
    ) -> None:
        """Store the options.

        Args:
            version: "v2.0" or "v2.1".
            weights: file of the checkpoint; None for the one in the hub's cache.
            architecture: model config of the package's open_clip; tests use a smaller one.

        Raises:
            ValueError: the version does not exist.
        """
        if version not in CHECKPOINTS:
            raise ValueError(
                f"scorer 'hpsv2': no version {version!r}; set it to one of {', '.join(CHECKPOINTS)}"
            )
        self.version, self.weights, self.architecture = version, weights, architecture
        self.metric = f"hps_{version}"
        self._loaded: PreferenceModel | None = None

    def load(self, device: str = "cpu") -> None:
        """Load the weights, 4 GB, which takes half a minute on a CPU; it downloads nothing.

        Raises:
            ValueError: the weights are neither in the given file nor in the hub's cache, or belong to
                another model.
        """
        if self._loaded is None:
            path = self._weights_file()
            loaded = build(self.architecture, device)
            read_weights(loaded, path)
            self._loaded = loaded

    def measure(self, images: Tensor, requests: Sequence[Request]) -> Measurements:
        """Return `hps_<version>` (B,) of images (B, 3, P, P) in [-1, 1] and their B requests.

        Images are rounded to 8 bits, as in the image files that the package opens.

        Raises:
            ValueError: the shape is another, or the numbers of images and requests differ.
        """
        if self._loaded is None:
            raise RuntimeError("scorer 'hpsv2': call load before measure")
        if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(requests):
            raise ValueError(
                f"scorer 'hpsv2': needs images (B, 3, P, P) and B requests, not "
                f"{tuple(images.shape)} and {len(requests)}"
            )
        scores = self._loaded.scores(images, [request.prompt for request in requests])
        return {self.metric: scores.numpy().astype(np.float32)}

    def summarise(self, measured: Measurements, requests: Sequence[Request]) -> list[Score]:
        """Return the mean over N images; if every request has a style, also the mean of each style.

        In that case the first score is the mean of the styles' means, as in the HPSv2 benchmark.

        Raises:
            ValueError: there are no images.
        """
        values = [float(value) for value in measured[self.metric]]
        groups: dict[str, list[float]] = {}
        for value, request in zip(values, requests, strict=True):
            groups.setdefault(request.style, []).append(value)
        protocol = self._protocol(requests)
        if not groups or "" in groups:
            return [mean(self.metric, values, protocol)]
        styles = [mean(f"{self.metric}_{style}", groups[style], protocol) for style in sorted(groups)]
        return [_mean_of_means(self.metric, styles, protocol), *styles]

    def _weights_file(self) -> Path:
        if self.weights is not None:
            if not Path(self.weights).is_file():
                raise ValueError(f"scorer 'hpsv2': no weights file {self.weights}")
            return Path(self.weights)
        file = CHECKPOINTS[self.version]
        try:
            return Path(hf_hub_download(REPOSITORY, file, local_files_only=True))
        except LocalEntryNotFoundError:
            raise ValueError(
                f"scorer 'hpsv2': {file} is not in the hub's cache; run `hf download {REPOSITORY} {file}` "
                "once on every machine that scores, or set `weights` to the file"
            ) from None

    def _protocol(self, requests: Sequence[Request]) -> str:
        file = Path(self.weights).name if self.weights else CHECKPOINTS[self.version]
        prompts = len({request.prompt for request in requests})
        return f"HPSv2 {self.version} of {prompts} prompts, scale of hpsv2.score, weights {file}"


def _mean_of_means(metric: str, groups: Sequence[Score], protocol: str) -> Score:
    """Return the unweighted mean of the groups' means, with the interval for independent errors."""
    value = math.fsum(group.value for group in groups) / len(groups)
    half = math.hypot(*(group.high - group.value for group in groups)) / len(groups)
    samples = sum(group.samples for group in groups)
    text = f"{protocol}, mean of the means of {len(groups)} styles"
    return Score(metric, value, samples, value - half, value + half, text)
