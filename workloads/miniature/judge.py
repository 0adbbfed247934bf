"""The judge: reads the attributes of a miniature picture back out of its pixels.

Shapes: B batch, P = 16 pixels a side, F = 64 features.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from workloads.miniature import WEIGHTS
from workloads.miniature.world import ATTRIBUTES, Scene, named_attributes

JUDGE_WEIGHTS = WEIGHTS / "judge.safetensors"


class Judge(nn.Module):
    """A small convolutional network with one classification head per attribute."""

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
        """(B, 3, P, P) in [-1, 1] -> for each attribute, logits (B, number of its values)."""
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, P, P) in [-1, 1] -> (B, F), the space in which pictures are compared."""
        out: Tensor = self.trunk(pictures)
        return out

    @torch.no_grad()
    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """What each of the (B, 3, P, P) pictures shows: attribute -> value."""
        best = {name: logits.argmax(-1).tolist() for name, logits in self(pictures).items()}
        return [
            {name: ATTRIBUTES[name][index[row]] for name, index in best.items()}
            for row in range(len(pictures))
        ]


def load_judge(path: Path = JUDGE_WEIGHTS) -> Judge:
    """The trained judge, in evaluation mode."""
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval()


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """For each attribute the (B,) indices of its values in `scenes`."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in ATTRIBUTES.items()
    }


def attribute_hits(judge: Judge, pictures: Tensor, prompts: Sequence[str]) -> dict[str, list[bool]]:
    """For each attribute, whether each picture whose prompt names it shows what was asked.

    Args:
        pictures: (B, 3, P, P) in [-1, 1], one per prompt.

    Returns:
        attribute -> one bool per prompt that names it; an attribute nobody names is absent.
    """
    hits: dict[str, list[bool]] = {}
    for prompt, seen in zip(prompts, judge.read(pictures), strict=True):
        for name, value in named_attributes(prompt).items():
            hits.setdefault(name, []).append(seen[name] == value)
    return hits
