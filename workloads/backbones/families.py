"""Supported backbone families, and the components of their pipeline folders.

To add a family, add an entry to `FAMILIES`, and a branch to `Backbone.predict` if its network takes its
conditioning in a new way.

SD3 and Flux (flow matching, joint attention) are not supported. They would need:

- In `NoiseSchedule`: two tables, alpha = 1 - t and sigma = t, instead of alpha_bar, and the prediction
  "flow", v = epsilon - x_0, for which `to_epsilon` is x_t + alpha v and `to_latents` is x_t - sigma v. The
  objectives use epsilon only and stay as they are. The saved scheduler is FlowMatchEulerDiscreteScheduler.
- In `Backbone.predict`: a branch for the call, which also packs Flux's latents. `Conditioning` already
  has all inputs: T5's hidden states (for SD3 together with CLIP's) and a pooled embedding.
- In `attention.guidance`: a second processor. There text is a stream of its own that every block changes,
  so negative keys and values cannot be computed beforehand: the negative text runs beside the prompt's,
  image queries attend to each of the two, and the kernel combines the rows of the image. The kernel
  should be NAG, because NASA is unbounded and fails there even at low strength (arXiv 2505.21179).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from workloads.backbones.load_errors import one_line


@dataclass(frozen=True)
class Family:
    """Properties in which families differ, apart from the call of the network."""

    pipeline: str
    """Class of the diffusers pipeline, as model_index.json names it."""
    network: str
    """Component that is distilled: `unet` or `transformer`."""
    network_classes: tuple[str, ...]
    """Accepted classes of that component, as model_index.json and its config name them."""
    text_encoders: tuple[tuple[str, str], ...]
    """Text encoders as (component, class); their embeddings are concatenated along the width."""
    tokens: int
    """Length to which prompts are padded and truncated; capped by the tokenizer's model_max_length."""
    lowercase: bool
    """True if the pipeline lowercases prompts before it encodes them."""
    masked: bool
    """True if the network takes an attention mask over padding tokens."""
    pooled: bool
    """True if the network also takes a pooled embedding, from the last text encoder, and image sizes
    (SDXL). The token embeddings then come from the encoders' penultimate layer."""
    unused: tuple[str, ...]
    """Components that the pipeline may have and nothing here uses; a student has none of them."""
    start_timestep: int
    """Timestep, of 1000, at which the student is called with pure noise.

    999 for the scaled-linear schedule of Stable Diffusion (alpha_T = 0.068). PixArt's linear schedule
    has alpha_T = 0.006, which would amplify errors 157 times; PixArt-DMD uses 400. SDXL has the schedule
    of Stable Diffusion, but DMD2's one-step SDXL starts at 399.
    """

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Component of each text encoder's tokenizer."""
        return tuple(name.replace("text_encoder", "tokenizer") for name, _ in self.text_encoders)

    def options(self, index: dict[str, Any]) -> dict[str, Any]:
        """Return the pipeline's options, which are no components, given the teacher's model_index.json.

        Nothing here filters or marks pictures, so stock pipelines must not do so either.
        """
        if self.pooled:
            zeros = index.get("force_zeros_for_empty_prompt", True)
            return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}
        return {"requires_safety_checker": False} if "safety_checker" in self.unused else {}


FAMILIES = (
    Family(
        pipeline="StableDiffusionPipeline",
        network="unet",
        network_classes=("UNet2DConditionModel",),
        text_encoders=(("text_encoder", "CLIPTextModel"),),
        tokens=77,
        lowercase=False,
        masked=False,
        pooled=False,
        unused=("safety_checker", "feature_extractor", "image_encoder"),
        start_timestep=999,
    ),
    Family(
        pipeline="StableDiffusionXLPipeline",
        network="unet",
        network_classes=("UNet2DConditionModel",),
        text_encoders=(("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")),
        tokens=77,
        lowercase=False,
        masked=False,
        pooled=True,
        unused=("feature_extractor", "image_encoder"),
        start_timestep=399,
    ),
    Family(
        pipeline="PixArtAlphaPipeline",
        network="transformer",
        # The published folders still name the second, older class.
        network_classes=("PixArtTransformer2DModel", "Transformer2DModel"),
        text_encoders=(("text_encoder", "T5EncoderModel"),),
        tokens=120,
        lowercase=True,
        masked=True,
        pooled=False,
        unused=(),
        start_timestep=400,
    ),
)


def family_of(source: str) -> Family:
    """Return the family of a diffusers folder or hub id; read model_index.json only.

    Raises:
        ValueError: There is no pipeline, or its class is not supported.
    """
    kind = model_index(source).get("_class_name")
    for family in FAMILIES:
        if kind == family.pipeline:
            return family
    supported = ", ".join(family.pipeline for family in FAMILIES)
    raise ValueError(
        f"backbone {source!r}: pipeline class {kind} is not supported; supported are: {supported}"
    )


def model_index(source: str) -> dict[str, Any]:
    """Return the model_index.json of a diffusers folder or hub id; empty if it is not a JSON object.

    Raises:
        ValueError: The file is missing or not valid JSON.
    """
    try:
        return _read(source, "model_index.json")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"backbone {source!r} is not a diffusers pipeline ({one_line(error)}); "
            f"give a folder with a model_index.json or the id of a model on the hub"
        ) from None


def check_start(start_from: str, source: str) -> None:
    """Check that a student of `source` can start from the pipeline `start_from`; read no weights.

    Raises:
        ValueError: It is of another family, or its network predicts another quantity, which would be
            misread from the first step on.
    """
    if family_of(start_from) != family_of(source):
        raise ValueError(
            f"student start_from {start_from!r} is not of the same family as its teacher {source!r}: "
            f"name one that is"
        )
    start, teacher = _prediction(start_from), _prediction(source)
    if start != teacher:
        raise ValueError(
            f"student start_from {start_from!r} predicts {start!r}, its teacher {source!r} predicts "
            f"{teacher!r}: name one that predicts the same"
        )


def _prediction(source: str) -> Any:
    try:
        return _read(source, "scheduler/scheduler_config.json").get("prediction_type", "epsilon")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"backbone {source!r}: its scheduler cannot be read: {one_line(error)}") from None


def _read(source: str, file: str) -> dict[str, Any]:
    """Read a JSON file of a folder or hub id; return an empty dict if it is not a JSON object."""
    path = Path(source) / file if Path(source).exists() else hf_hub_download(source, file)
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
