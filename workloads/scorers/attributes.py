"""Attribute accuracy in the miniature world: does the picture show what the prompt names?

Shapes: B batch, P = 16 pixels a side.
"""

from collections.abc import Sequence

from torch import Tensor

from workloads.miniature.judge import attribute_hits, load_judge
from workloads.miniature.world import ATTRIBUTES, captions
from workloads.scorers.score import Score, share

PROMPT_SEED = 20_241_203
PROTOCOL = "named attributes read by the miniature judge"


class AttributeAccuracy:
    """The share of attributes named by the prompts that the judge finds in the pictures."""

    name = "attributes"
    metric = "attribute_accuracy"

    def __init__(self) -> None:
        self._judge = load_judge()

    @staticmethod
    def prompts(count: int) -> list[str]:
        """The prompts that the score is measured on: never those of training."""
        return captions(count, PROMPT_SEED)

    def score(self, pictures: Tensor, prompts: Sequence[str]) -> list[Score]:
        """Of (B, 3, P, P) in [-1, 1]: the accuracy over all attributes, then of each.

        Raises:
            ValueError: the pictures are not of the miniature world's size.
        """
        if pictures.shape[1:] != (3, 16, 16):
            raise ValueError(
                f"scorer 'attributes' reads 16 x 16 pictures of the miniature world, not "
                f"{tuple(pictures.shape[1:])}; leave it out of evaluate.scorers for this backbone"
            )
        hits = attribute_hits(self._judge, pictures, prompts)
        everything = [hit for values in hits.values() for hit in values]
        scores = [share(self.metric, sum(everything), len(everything), PROTOCOL)]
        for attribute in ATTRIBUTES:
            found = hits.get(attribute)
            if found:
                scores.append(share(f"accuracy_{attribute}", sum(found), len(found), PROTOCOL))
        return scores
