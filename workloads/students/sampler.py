"""Drawing with a saved student: for a search over strengths, and for people.

Shapes: P pairs of prompt and negative prompt, N pictures, B of a batch, X pixels a side.
"""

import io
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import Backbone, load_backbone, load_scheduler_config
from workloads.backbones.conditioning import Conditioning
from workloads.backbones.text_encoder import TextEncoder
from workloads.images import to_image
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import load_defaults
from workloads.students.student import decode, generate, load_autoencoder

BATCH = 32


def load_student(folder: str, device: str = "cpu") -> Backbone:
    """A saved student as a backbone that starts where its one-step scheduler does.

    Raises:
        ValueError: not a student's folder.
    """
    steps = load_scheduler_config(folder)["num_train_timesteps"]
    return load_backbone(folder, start_timestep=steps - 1, device=device)


@torch.no_grad()
def draw_pairs(
    folder: str,
    prompts: Conditioning,
    negatives: Conditioning,
    settings: AttentionGuidanceSettings,
    *,
    pictures: int,
    seed: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """`pictures` of each of P pairs, as batches of (number of the pair, (B, 3, X, X) in [-1, 1]).

    The noise is a function of `seed` alone, so that strengths and students compare picture by
    picture. `negatives` is of P rows, or of one for all.
    """
    student, vae = _opened(folder, "cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator("cpu").manual_seed(seed)
    pairs = torch.arange(len(prompts)).repeat_interleave(pictures)
    prompts, negatives = (part.to(student.device, student.dtype) for part in (prompts, negatives))
    shared = AttentionGuidance(student.network, negatives, settings) if len(negatives) == 1 else None
    for rows in torch.split(pairs, BATCH):
        noise = torch.randn((len(rows), *student.latent_shape), generator=generator).to(student.device)
        guidance = shared or AttentionGuidance(student.network, negatives.select(rows), settings)
        latents = generate(student, student.network, noise, prompts.select(rows), guidance)
        yield rows.tolist(), decode(vae, latents)


@lru_cache(maxsize=1)
def _opened(folder: str, device: str) -> tuple[Backbone, AutoencoderKL]:
    """A process draws with one student at strength after strength."""
    return load_student(folder, device), load_autoencoder(folder, device)


class Generator:
    """A student's folder, opened to draw prompts that people write."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Opens network, autoencoder and text encoder; on a GPU if there is one.

        Raises:
            ValueError: not a student's folder.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._student, self._vae = load_student(str(folder), device), load_autoencoder(str(folder), device)
        self._encoder = TextEncoder(str(folder), device)
        self.defaults = load_defaults(folder)

    @torch.no_grad()
    def draw(
        self, prompt: str, seeds: Sequence[int], negative_prompt: str = "", strength: float | None = None
    ) -> Tensor:
        """A picture for each seed, (N, 3, X, X) in [-1, 1], in one network call a batch.

        `strength` is by default the student's own best; it counts with a negative prompt only.
        """
        settings = self.defaults if strength is None else with_strength(self.defaults, strength)
        student = self._student
        shape = (1, *student.latent_shape)
        noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
        prompts = self._encode(prompt).expand(len(seeds))
        guidance = None
        if negative_prompt:
            guidance = AttentionGuidance(student.network, self._encode(negative_prompt), settings)
        latents = generate(student, student.network, noise.to(student.device), prompts, guidance, BATCH)
        return decode(self._vae, latents)

    def png(self, prompt: str, seed: int, negative_prompt: str = "", strength: float | None = None) -> bytes:
        """One picture as a file; see `draw`."""
        content = io.BytesIO()
        to_image(self.draw(prompt, [seed], negative_prompt, strength)[0]).save(content, "png")
        return content.getvalue()

    def _encode(self, prompt: str) -> Conditioning:
        return self._encoder.encode([prompt]).to(self._student.device, self._student.dtype)


def with_strength(defaults: AttentionGuidanceSettings, strength: float) -> AttentionGuidanceSettings:
    """The same kernel at another strength; NASA for a student that has no default."""
    if defaults.kind == "none":
        return AttentionGuidanceSettings("nasa", strength)
    return AttentionGuidanceSettings(defaults.kind, strength, defaults.clip, defaults.blend)
