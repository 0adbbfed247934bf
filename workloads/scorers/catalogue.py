"""The scorer of a name and options in the sweep file."""

from workloads.scorers.scorer import Scorer
from workloads.settings.scorers import ScorerSettings

CLIP_MODEL = "openai/clip-vit-large-patch14"
CLIP_THRESHOLD = 0.5


def make_scorer(settings: ScorerSettings) -> Scorer:
    """Return the scorer, without its weights; only the modules that it needs are imported."""
    if settings.name == "attributes":
        from workloads.scorers.attributes import AttributeAccuracy

        return AttributeAccuracy()
    if settings.name == "fidelity":
        from workloads.scorers.fidelity import JudgeFidelity

        return JudgeFidelity()
    if settings.name == "removal":
        from workloads.scorers.removal import JudgeRemoval

        return JudgeRemoval()
    if settings.name == "clip":
        from workloads.scorers.clip import ClipAgreement

        threshold = CLIP_THRESHOLD if settings.threshold is None else settings.threshold
        return ClipAgreement(settings.weights or CLIP_MODEL, threshold)
    if settings.name == "hpsv2":
        from workloads.scorers.hpsv2_score import HPSv2

        assert settings.version is not None
        return HPSv2(settings.version, settings.weights)
    from workloads.scorers.inception import InceptionFid

    assert settings.weights is not None and settings.reference is not None
    return InceptionFid(settings.weights, settings.reference)
