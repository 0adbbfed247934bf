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


@dataclass(frozen=True)
class AdversarialSettings:
    """The conditional diffusion discriminator of Diffusion2GAN (arXiv 2405.05967, sec. 3.3)."""

    __pydantic_config__ = STRICT

    weight: float = 0.1
    """Factor lambda on the student's adversarial loss; the paper does not publish its own."""
    learning_rate: float = 1e-4
    """Learning rate of the discriminator (AdamW with beta_1 = 0)."""
    reads_noise: bool = True
    """True if the discriminator reads the noise of which the picture is made."""
    mix_rate: float = 0.25
    """Share of samples whose picture is given to another one's noise and prompt, and counts as not real
    (mix-and-match); the paper does not publish its own."""
    gradient_penalty: float = 1.0
    """Factor on R1, the squared gradient of the discriminator at a real picture; 0: no penalty."""
    penalty_every: int = 16
    """Interval in steps between two gradient penalties, each on one sample of a worker's batch."""

    def __post_init__(self) -> None:
        check_positive(self, ("weight", "learning_rate"))
        check_ranges(
            self,
            {"mix_rate": (0, 1), "gradient_penalty": (0, 1e6), "penalty_every": (1, 1_000_000)},
        )


@dataclass(frozen=True)
class RelationalSettings:
    """Relational Diffusion Distillation (RDD, arXiv 2410.07679): relations between features of latents.

    Defaults as published for CIFAR-10, in its code.
    """

    __pydantic_config__ = STRICT

    class_weight: float = 1.0
    """Weight of the divergence of pooled features (RCFD's)."""
    class_temperature: float = 0.9
    """Divisor of the teacher's pooled features."""
    pixel_weight: float = 1.0
    """Weight of the divergence of similarities between all positions of all pairs of samples."""
    bank_weight: float = 0.1
    """Weight of the divergence of similarities to a bank of the teacher's positions."""
    bank_temperature: float = 0.1
    """Divisor of the similarities to the bank."""

    def __post_init__(self) -> None:
        names = ("class_weight", "pixel_weight", "bank_weight")
        check_ranges(self, dict.fromkeys(names, (0, 1e6)))
        check_positive(self, ("class_temperature", "bank_temperature"))
        if not any(getattr(self, name) for name in names):
            raise ValueError("class_weight, pixel_weight and bank_weight are all 0: leave relational out")
