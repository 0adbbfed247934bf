"""Settings of teacher pairs: noise, and the latents that the teacher draws from it."""

from dataclasses import dataclass

from workloads.settings.validation import STRICT, check_ranges

MAX_GUIDANCE_SCALE = 1000


@dataclass(frozen=True)
class PairSettings:
    """How the teacher draws the pairs of a training, one pair for each row of the prompts."""

    __pydantic_config__ = STRICT

    steps: int = 50
    """Steps of the teacher's deterministic sampler: DDIM, or Euler in flow matching."""
    guidance_scale: float = 3.0
    """Guidance scale of the teacher; 1: no guidance. Published: 3 and 8 (Diffusion2GAN)."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        check_ranges(self, {"steps": (1, 1000), "guidance_scale": (0, MAX_GUIDANCE_SCALE), "seed": (0, 999)})
