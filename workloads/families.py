"""The backbone families that are supported, and where their parts are in a pipeline folder.

To add a family: one entry in `FAMILIES`, and a call in `Backbone.predict` if its network takes
its conditioning in a new way.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download


@dataclass(frozen=True)
class Family:
    """What differs between families, apart from the call of the network."""

    pipeline: str
    """Class of the diffusers pipeline, as in model_index.json."""
    network: str
    """Component of the pipeline that is distilled: `unet` or `transformer`."""
    text_encoder: str
    """Class of the text encoder."""
    tokens: int
    """Length to which prompts are padded and cut (model_max_length caps it)."""
    masked: bool
    """Whether the network is told which tokens are padding."""
    start_timestep: int
    """Timestep at which the student reads pure noise, of 1000.

    999 for the scaled-linear schedule of Stable Diffusion (alpha_T = 0.068). PixArt's linear
    schedule has alpha_T = 0.006, which would amplify errors 157 times: 400, as PixArt-DMD.
    """


FAMILIES = (
    Family("StableDiffusionPipeline", "unet", "CLIPTextModel", 77, False, 999),
    Family("PixArtAlphaPipeline", "transformer", "T5EncoderModel", 120, True, 400),
)


def family_of(source: str) -> Family:
    """The family of a diffusers folder or hub id; reads model_index.json alone.

    Raises:
        ValueError: nothing there, or a pipeline of another kind; names what is supported.
    """
    supported = ", ".join(family.pipeline for family in FAMILIES)
    try:
        local = Path(source).exists()
        path = Path(source) / "model_index.json" if local else hf_hub_download(source, "model_index.json")
        index = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"backbone {source!r}: no diffusers pipeline there ({_first_line(error)}); "
            f"give a folder with a model_index.json or the id of a model on the hub"
        ) from None
    for family in FAMILIES:
        if index.get("_class_name") == family.pipeline:
            return family
    raise ValueError(f"backbone {source!r} is a {index.get('_class_name')}; supported are: {supported}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
