"""Settings of the terms that an objective adds to the student's loss."""

from dataclasses import dataclass

from workloads.settings.validation import STRICT, check_positive, check_ranges


@dataclass(frozen=True)
class ClipLossSettings:
    """The clamped CLIP loss on the student's images; defaults as published (SwiftBrush v2, eq. 5)."""

    __pydantic_config__ = STRICT

    model: str = "openai/clip-vit-base-patch32"
    """Folder of a CLIP model in transformers' format, its id on the hub, or `miniature/clip`."""
    margin: float = 0.35
    """Cosine similarity tau of image and prompt above which the loss is 0 (SNOOPI: 0.37)."""
    weight: float = 0.1
    """Factor on the loss at the first step; it falls linearly to 0 at the end of the training."""
    every: int = 1
    """Interval in steps between two evaluations of the loss, for which images must be decoded."""

    def __post_init__(self) -> None:
        check_positive(self, ("weight",))
        check_ranges(self, {"margin": (-1, 1), "every": (1, 1_000_000)})
        if not self.model.strip():
            raise ValueError("model is empty: name a CLIP model")
