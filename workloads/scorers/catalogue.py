"""From a scorer's name and options in the sweep file to the scorer."""

from workloads.scorers.scorer import Scorer
from workloads.scorers.settings import ScorerSettings

CLIP_MODEL = "openai/clip-vit-large-patch14"
CLIP_THRESHOLD = 0.5


def make_scorer(settings: ScorerSettings) -> Scorer:
    """The scorer, without its weights; imports only what that scorer needs."""
    if settings.name == "attributes":
        from workloads.scorers.attributes import AttributeAccuracy

        return AttributeAccuracy()
    if settings.name == "fidelity":
        from workloads.scorers.fidelity import JudgeFidelity

        return JudgeFidelity()
    if settings.name == "removal":
        from workloads.scorers.removal import JudgedRemoval

        return JudgedRemoval()
    raise NotImplementedError(settings.name)
