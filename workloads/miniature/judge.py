"""Judge: a classifier that reads the attributes of a miniature picture out of its pixels.

Shapes: B batch, P = 16 pixels a side, F = 64 features.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from workloads.miniature import WEIGHTS
from workloads.miniature.world import ATTRIBUTES, PIXELS, Scene, named_attributes

JUDGE_WEIGHTS = WEIGHTS / "judge.safetensors"
"""File of the shipped judge."""


class Judge(nn.Module):
    """Small convolutional network with one classification head per attribute."""

    def __init__(self, width: int = 32, features: int = 64) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, features, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(features * 16, features),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(features, len(values)) for name, values in ATTRIBUTES.items()}
        )

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return logits (B, number of values) by attribute, for `pictures` (B, 3, P, P) in [-1, 1]."""
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}

    def features(self, pictures: Tensor) -> Tensor:
        """Return features (B, F), by which pictures are compared, for `pictures` (B, 3, P, P) in [-1, 1].

        Larger pictures, of a multiple of P pixels a side, are averaged down to P.
        """
        out: Tensor = self.trunk(F.adaptive_avg_pool2d(pictures, PIXELS))
        return out

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """Return attribute -> value for each of `pictures` (B, 3, P, P) in [-1, 1]."""
        best = {name: logits.argmax(-1).tolist() for name, logits in self(pictures).items()}
        return [
            {name: ATTRIBUTES[name][index[row]] for name, index in best.items()}
            for row in range(len(pictures))
        ]


def load_judge(path: Path = JUDGE_WEIGHTS) -> Judge:
    """Load the trained judge, in evaluation mode."""
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval()


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return by attribute the indices (B,) of the values of B `scenes`."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in ATTRIBUTES.items()
    }


def attribute_hits(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> dict[str, list[bool]]:
    """Return by attribute, for each prompt that names it, whether the picture shows the named value.

    `pictures` is (B, 3, P, P) in [-1, 1], one per prompt. An attribute that no prompt names is absent.
    """
    hits: dict[str, list[bool]] = {}
    for prompt, seen in zip(prompts, judge.read(pictures), strict=True):
        for name, value in named_attributes(prompt).items():
            hits.setdefault(name, []).append(seen[name] == value)
    return hits
