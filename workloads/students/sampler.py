"""Sampling from a saved student: `draw_pairs` for a search over guidance scales, `Generator` for prompts.

    folder -> load_student, load_autoencoder
    noise by seed -> generate (every step guided) -> decode -> pictures

Shapes: P pairs of prompt and negative prompt, N pictures, B batch, X pixels a side.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from workloads.attention import AttentionGuidance
from workloads.backbones.autoencoders import Autoencoder
from workloads.backbones.backbone import Backbone, load_backbone, load_scheduler_config
from workloads.backbones.families import Family
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.images import to_image
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import load_defaults
from workloads.students.guidance_scale import conditioned
from workloads.students.scale_range import ScaleRange, load_scales
from workloads.students.schedulers import student_steps, with_student_steps
from workloads.students.student import SAMPLE_BATCH, decode, generate, load_autoencoder
from workloads.students.unroll import draw_noise

NOTE_CHARACTERS = 80
"""Most characters that a note shows of a prompt and of its end."""


def load_student(folder: str, device: str = "cpu") -> Backbone:
    """Return a saved student as a backbone with start timestep and steps of its scheduler.

    Raises:
        ValueError: `folder` is no student's folder.
    """
    config = load_scheduler_config(folder)
    opened = load_backbone(folder, start_timestep=config["num_train_timesteps"] - 1, device=device)
    return with_student_steps(opened, student_steps(config))


def load_network_of(student: Backbone) -> Network:
    """Return the network of a saved student, which reads guidance scales if the student does."""
    folder = Path(student.source)
    return conditioned(student.network, folder, load_scales(folder))


def at_scale(prompts: Conditioning, scales: ScaleRange | None, scale: float | None) -> Conditioning:
    """Return the prompts for a student with these `scales`, at one `scale`; None: its default.

    Raises:
        ValueError: The student does not read guidance scales, or not this one.
    """
    if scales is None:
        if scale is not None:
            raise ValueError("the student does not read guidance scales: leave the guidance scale out")
        return prompts
    value = scales.default if scale is None else scales.check(scale)
    return prompts.at_scale(torch.full((len(prompts),), value, device=prompts.embeddings.device))


@torch.no_grad()
def draw_pairs(
    folder: str,
    prompts: Conditioning,
    negatives: Conditioning,
    settings: AttentionGuidanceSettings,
    *,
    pictures: int,
    seed: int,
    scale: float | None = None,
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield `pictures` samples of each of P pairs, in batches: pair indices, and (B, 3, X, X) in [-1, 1].

    `negatives` has P rows, or one row for all prompts. The noise is a function of `seed` alone, so that
    strengths, scales and students, of any number of steps, are compared picture by picture. `scale` is the
    guidance scale of a student that reads one; None: its default.

    Raises:
        ValueError: The student does not read guidance scales, or not this one.
    """
    student, network, vae = _load_cached(folder, "cuda" if torch.cuda.is_available() else "cpu")
    generator, later = (torch.Generator("cpu").manual_seed(each % 2**63) for each in (seed, seed + 1))
    pairs = torch.arange(len(prompts)).repeat_interleave(pictures)
    prompts, negatives = (part.to(student.device, student.dtype) for part in (prompts, negatives))
    prompts = at_scale(prompts, load_scales(Path(folder)), scale)
    shared = AttentionGuidance(student.network, negatives, settings) if len(negatives) == 1 else None
    for rows in torch.split(pairs, SAMPLE_BATCH):
        noise = draw_noise(student, len(rows), generator, later).to(student.device)
        guidance = shared or AttentionGuidance(student.network, negatives.select(rows), settings)
        latents = generate(student, network, noise, prompts.select(rows), guidance)
        yield rows.tolist(), decode(vae, latents)


@torch.no_grad()
def draw_prompts(folder: str, prompts: Conditioning, *, scale: float | None, seed: int) -> Tensor:
    """Return one picture of each of N prompts, (N, 3, X, X) in [-1, 1], with the noise of an evaluation.

    `scale` is the guidance scale of a student that reads one; None: its default.

    Raises:
        ValueError: The student does not read guidance scales, or not this one.
    """
    student, network, vae = _load_cached(folder, "cuda" if torch.cuda.is_available() else "cpu")
    noise = draw_noise(student, len(prompts), torch.Generator("cpu").manual_seed(seed))
    moved = at_scale(prompts.to(student.device, student.dtype), load_scales(Path(folder)), scale)
    return decode(vae, generate(student, network, noise.to(student.device), moved))


@lru_cache(maxsize=1)
def _load_cached(folder: str, device: str) -> tuple[Backbone, Network, Autoencoder]:
    """Load a student once for the many arms at which one process samples it."""
    student = load_student(folder, device)
    return student, load_network_of(student), load_autoencoder(folder, device)


class Generator:
    """A loaded student that turns prompts into pictures."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Load network, autoencoder and text encoder; by default onto a GPU where one is available.

        Raises:
            ValueError: `folder` is no student's folder.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._student, self._vae = load_student(str(folder), device), load_autoencoder(str(folder), device)
        self._network = load_network_of(self._student)
        self._encoder = TextEncoder(str(folder), device)
        self.defaults, self.scales = load_defaults(folder), load_scales(folder)

    @torch.no_grad()
    def draw(
        self,
        prompt: str,
        seeds: Sequence[int],
        negative_prompt: str = "",
        strength: float | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Return one picture per seed, (N, 3, X, X) in [-1, 1], with a network call for each step of a batch.

        The noise of a picture is that of a stock pipeline with a generator of its seed, as far as the
        pipeline uses its generator: those of SD3, FLUX.2 and Z-Image draw later noise from torch's own.

        `strength` is the guidance scale of the negative prompt; None stands for the student's default.
        Without a negative prompt it has no effect. `scale` is the guidance scale of a student that reads one;
        None stands for its default.

        Raises:
            ValueError: The student does not read guidance scales, or not this one.
        """
        student, settings = self._student, self.defaults
        if strength is not None:
            settings = with_strength(self.defaults, strength, student.family)
        noise = torch.cat([draw_noise(student, 1, torch.Generator().manual_seed(seed)) for seed in seeds])
        prompts = at_scale(self._encode(prompt).expand(len(seeds)), self.scales, scale)
        guidance = None
        if negative_prompt:
            negative = self._encode(negative_prompt, negative=True)
            guidance = AttentionGuidance(student.network, negative, settings)
        latents = generate(student, self._network, noise.to(student.device), prompts, guidance)
        return decode(self._vae, latents)

    def png(
        self,
        prompt: str,
        seed: int,
        negative_prompt: str = "",
        strength: float | None = None,
        scale: float | None = None,
    ) -> bytes:
        """Return one picture as the content of a PNG file; see `draw`."""
        content = io.BytesIO()
        to_image(self.draw(prompt, [seed], negative_prompt, strength, scale)[0]).save(content, "png")
        return content.getvalue()

    def cut_note(self, prompt: str) -> str | None:
        """Return a line about the end of a prompt that the text encoder does not read; None if it fits."""
        (end,) = self._encoder.dropped([prompt])
        if end is None:
            return None
        begin = prompt if len(prompt) <= NOTE_CHARACTERS else f"{prompt[:NOTE_CHARACTERS]}..."
        rest = end.strip() if len(end) <= NOTE_CHARACTERS else f"...{end[-NOTE_CHARACTERS:].strip()}"
        limit = self._encoder.tokens
        return f"{begin!r} is longer than {limit} tokens; the model does not read its end: {rest!r}"

    def _encode(self, prompt: str, negative: bool = False) -> Conditioning:
        if note := self.cut_note(prompt):
            warnings.warn(note, stacklevel=4)
        encoded = self._encoder.encode([prompt], negative=negative)
        return encoded.to(self._student.device, self._student.dtype)


def with_strength(
    defaults: AttentionGuidanceSettings, strength: float, family: Family
) -> AttentionGuidanceSettings:
    """Return `defaults` with another guidance scale.

    A student without a default is guided by NASA, or by NAG where its family has no NASA.
    """
    if defaults.kind == "none":
        return AttentionGuidanceSettings("nasa" if family.has_guidance("nasa") else "nag", strength)
    return AttentionGuidanceSettings(defaults.kind, strength, defaults.clip, defaults.blend)
