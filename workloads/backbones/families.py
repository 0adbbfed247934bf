"""The backbone families that are supported, and where their parts are in a pipeline folder.

To add a family: one entry in `FAMILIES`, and a call in `Backbone.predict` if its network takes
its conditioning in a new way.

SD3 and Flux (flow matching, joint attention) are not supported; they would fit so:

- `NoiseSchedule` keeps two tables, alpha = 1 - t and sigma = t, in place of alpha_bar, and learns the
  prediction "flow", v = epsilon - x_0: `to_epsilon` is x_t + alpha v, `to_latents` is x_t - sigma v. The
  objective sees epsilon alone, so it stays as it is; the saved scheduler is FlowMatchEulerDiscreteScheduler.
- A branch in `Backbone.predict` for the call, which also packs Flux's latents. `Conditioning` has all that
  they take: T5's states (SD3: beside CLIP's), and a pooled embedding.
- A second processor in `attention.guidance`. Text is a stream of its own there, changed by every
  block, so negative keys and values cannot be made beforehand: the negative text runs beside the
  prompt's, image queries attend to each of both, and the kernel combines the image's rows. The kernel
  is NAG: NASA, which nothing bounds, breaks there even at low strength (arXiv 2505.21179).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download


@dataclass(frozen=True)
class Family:
    """What differs between families, apart from the call of the network."""

    pipeline: str
    """Class of the diffusers pipeline, as in model_index.json."""
    network: str
    """Component of the pipeline that is distilled: `unet` or `transformer`."""
    network_classes: tuple[str, ...]
    """Classes of that component, as in model_index.json and its config."""
    text_encoders: tuple[tuple[str, str], ...]
    """Components that encode prompts, each with its class; their embeddings are joined in width."""
    tokens: int
    """Length to which prompts are padded and cut (model_max_length caps it)."""
    lowercase: bool
    """Whether its pipeline makes prompts lower case before it encodes them."""
    masked: bool
    """Whether the network is told which tokens are padding."""
    pooled: bool
    """Whether the network also takes an embedding of the whole prompt, from the last text encoder, and
    the sizes of the picture (SDXL); the embeddings are then those of the encoders' last layer but one."""
    start_timestep: int
    """Timestep at which the student reads pure noise, of 1000.

    999 for the scaled-linear schedule of Stable Diffusion (alpha_T = 0.068). PixArt's linear
    schedule has alpha_T = 0.006, which would amplify errors 157 times: 400, as PixArt-DMD. SDXL has
    the schedule of Stable Diffusion, but one step of it starts at 399 in DMD2.
    """

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The component with the tokenizer of each text encoder."""
        return tuple(part.replace("text_encoder", "tokenizer") for part, _ in self.text_encoders)


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
        start_timestep=399,
    ),
    Family(
        pipeline="PixArtAlphaPipeline",
        network="transformer",
        # The second is what the published folders still say.
        network_classes=("PixArtTransformer2DModel", "Transformer2DModel"),
        text_encoders=(("text_encoder", "T5EncoderModel"),),
        tokens=120,
        lowercase=True,
        masked=True,
        pooled=False,
        start_timestep=400,
    ),
)


def family_of(source: str) -> Family:
    """The family of a diffusers folder or hub id; reads model_index.json alone.

    Raises:
        ValueError: nothing there, or a pipeline of another kind; names what is supported.
    """
    kind = model_index(source).get("_class_name")
    for family in FAMILIES:
        if kind == family.pipeline:
            return family
    supported = ", ".join(family.pipeline for family in FAMILIES)
    raise ValueError(f"backbone {source!r} is a {kind}; supported are: {supported}")


def model_index(source: str) -> dict[str, Any]:
    """The model_index.json of a diffusers folder or hub id; empty if it holds something else.

    Raises:
        ValueError: nothing there.
    """
    try:
        return _read(source, "model_index.json")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"backbone {source!r}: no diffusers pipeline there ({_first_line(error)}); "
            f"give a folder with a model_index.json or the id of a model on the hub"
        ) from None


def check_start(start_from: str, source: str) -> None:
    """Refuses a pipeline for a student of `source` to start from, as far as the indices of both tell.

    Raises:
        ValueError: it is of another family, or was trained to predict something else: its output would
            be misread from the first step.
    """
    if family_of(start_from) != family_of(source):
        raise ValueError(f"student start_from {start_from!r} is not of {source!r}'s family")
    start, teacher = _prediction(start_from), _prediction(source)
    if start != teacher:
        raise ValueError(
            f"student start_from {start_from!r} predicts {start!r}, its teacher {source!r} {teacher!r}: "
            f"name one that predicts the same"
        )


def _prediction(source: str) -> Any:
    try:
        return _read(source, "scheduler/scheduler_config.json").get("prediction_type", "epsilon")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"backbone {source!r}: its scheduler cannot be read: {_first_line(error)}") from None


def _read(source: str, file: str) -> dict[str, Any]:
    """A JSON file of a folder or hub id; empty if it holds something else."""
    path = Path(source) / file if Path(source).exists() else hf_hub_download(source, file)
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
