"""HPSv2: which picture people would prefer for a prompt, by a CLIP model tuned on their choices.

Wu et al., "Human Preference Score v2" (arXiv 2306.09341); weights xswu/HPSv2, v2.0 and v2.1. The
numbers are those of `hpsv2.score` (about 0.2 to 0.35), a batch at a time; published tables, and
`hpsv2.evaluate`, give them times 100.

Shapes: B batch, N pictures, P pixels a side.
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
from workloads.scorers.scorer import Measured, Request, Scorer


class HPSv2(Scorer):
    """The human preference score, named with its version: `hps_v2.1`.

    In fp32 on a CPU; on a GPU in the mixed precision that the package uses there.
    """

    name = "hpsv2"

    def __init__(
        self, version: str = "v2.1", weights: str | None = None, architecture: str = ARCHITECTURE
    ) -> None:
        """With `weights` of a file, else of the hub's cache; another `architecture` is for tests.

        Raises:
            ValueError: there is no such version.
        """
        if version not in CHECKPOINTS:
            raise ValueError(f"scorer 'hpsv2': no version {version!r}; one of {', '.join(CHECKPOINTS)}")
        self.version, self.weights, self.architecture = version, weights, architecture
        self.metric = f"hps_{version}"
        self._loaded: PreferenceModel | None = None

    def load(self, device: str = "cpu") -> None:
        """Takes the weights into memory: 4 GB, half a minute on a CPU; never downloads.

        Raises:
            ValueError: they are neither in the given file nor in the hub's cache, or of another model.
        """
        if self._loaded is None:
            path = self._weights_file()
            loaded = build(self.architecture, device)
            read_weights(loaded, path)
            self._loaded = loaded

    def measure(self, pictures: Tensor, requests: Sequence[Request]) -> Measured:
        """Of (B, 3, P, P) in [-1, 1] and their B requests: (B,) scores; needs `load` before.

        The pictures are rounded to 8 bits, as they would be in a file that the package opens.

        Raises:
            ValueError: they are not B colour pictures.
        """
        if self._loaded is None:
            raise RuntimeError("scorer 'hpsv2': call load before measure")
        if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) != len(requests):
            raise ValueError(
                f"scorer 'hpsv2' reads (B, 3, P, P) pictures and B requests, not "
                f"{tuple(pictures.shape)} and {len(requests)}"
            )
        scores = self._loaded.scores(pictures, [request.prompt for request in requests])
        return {self.metric: scores.numpy().astype(np.float32)}

    def summarise(self, measured: Measured, requests: Sequence[Request]) -> list[Score]:
        """The mean over N pictures and, where every prompt has a style, that of each style.

        The first score is then the mean of the styles' means, as in the benchmark of four styles.

        Raises:
            ValueError: there are no pictures.
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
                raise ValueError(f"scorer 'hpsv2': there is no weights file {self.weights}")
            return Path(self.weights)
        file = CHECKPOINTS[self.version]
        try:
            return Path(hf_hub_download(REPOSITORY, file, local_files_only=True))
        except LocalEntryNotFoundError:
            raise ValueError(
                f"scorer 'hpsv2': {file} is not in the hub's cache; run `hf download {REPOSITORY} {file}`"
                " once on every machine that scores, or name a file as `weights`"
            ) from None

    def _protocol(self, requests: Sequence[Request]) -> str:
        file = Path(self.weights).name if self.weights else CHECKPOINTS[self.version]
        prompts = len({request.prompt for request in requests})
        return f"HPSv2 {self.version} of {prompts} prompts, scale of hpsv2.score, weights {file}"


def _mean_of_means(metric: str, groups: Sequence[Score], protocol: str) -> Score:
    """Every group counts the same, however many pictures it has; their errors are independent."""
    value = math.fsum(group.value for group in groups) / len(groups)
    half = math.hypot(*(group.high - group.value for group in groups)) / len(groups)
    samples = sum(group.samples for group in groups)
    text = f"{protocol}, mean of the means of {len(groups)} styles"
    return Score(metric, value, samples, value - half, value + half, text)
