"""What the teacher itself draws, with the stock pipeline: the measure of its students.

Shapes: B batch, P pixels a side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from workloads.backbones.load_errors import NOT_LOADED, describe

BATCH = 32


def open_pipeline(source: str, device: str = "cpu") -> DiffusionPipeline:
    """The whole pipeline of a backbone, text encoder and all; half precision on GPUs.

    Raises:
        ValueError: it cannot be opened.
    """
    dtype = torch.float16 if device == "cuda" else torch.float32
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except NOT_LOADED as error:
        raise ValueError(f"backbone {source!r} cannot be opened: {describe(error)}") from None
    pipeline.set_progress_bar_config(disable=True)
    # SDXL's autoencoder, which runs in float32, asks for 3 GiB a picture of 1024 px.
    pipeline.vae.enable_slicing()
    # It blackens what it takes offence at, which no student's pictures are put through.
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None
    opened: DiffusionPipeline = pipeline.to(device)
    return opened


def draw(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    seed: int = 0,
) -> Tensor:
    """Pictures (B, 3, P, P) in [-1, 1], one a prompt, on the CPU."""
    generator = torch.Generator("cpu").manual_seed(seed)
    parts = []
    for row in range(0, len(prompts), BATCH):
        pictures = pipeline(
            list(prompts[row : row + BATCH]),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type="pt",
            **call_arguments(pipeline),
        ).images
        parts.append(torch.as_tensor(pictures).float().cpu() * 2 - 1)
    return torch.cat(parts)


def call_arguments(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """What a call of the pipeline needs to draw at the size that it was trained for."""
    network = getattr(pipeline, "transformer", None) or pipeline.unet
    pixels = network.config.sample_size * pipeline.vae_scale_factor
    size: dict[str, Any] = {"height": pixels, "width": pixels}
    if not hasattr(pipeline, "transformer"):
        return size
    # PixArt's own cleaning of captions needs more packages; its bins suit its own sizes only.
    extra: dict[str, Any] = {"clean_caption": False, "use_resolution_binning": pixels >= 256}
    tokens = min(120, pipeline.tokenizer.model_max_length)
    return {**size, **extra, "max_sequence_length": tokens}
