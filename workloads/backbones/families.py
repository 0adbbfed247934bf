"""Supported backbone families, and the components of their pipeline folders. Imports no torch.

To add a family, add an entry to `FAMILIES`. If its classes are new, add its network to `network_calls`, its
autoencoder to `autoencoders`, its text encoders to `text_encoder`, and the way from prompts to conditioning
to `prompt_states`; attention guidance of a new kind of block goes into `workloads/attention`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line
from workloads.backbones.scheduler_configs import prediction_of

CLIP_TOKENS = 77
"""Tokens that every text encoder of CLIP reads."""


@dataclass(frozen=True)
class Family:
    """Properties in which families differ, apart from the call of the network."""

    pipeline: str
    """Class of the diffusers pipeline, as model_index.json names it."""
    network: str
    """Component that is distilled: `unet` or `transformer`."""
    network_classes: tuple[str, ...]
    """Accepted classes of that component, as model_index.json and its config name them.

    The first is the one that is opened."""
    text_encoders: tuple[tuple[str, str], ...]
    """Text encoders as (component, class)."""
    encoding: str
    """Way from prompts to conditioning: an entry of `prompt_states.ENCODINGS`."""
    tokens: int
    """Length to which prompts are padded and truncated; capped by the tokenizer's model_max_length.

    Those of CLIP read CLIP_TOKENS, whatever the family.
    """
    start_timestep: int
    """Timestep, of 1000, at which the student is called with pure noise.

    999 for the scaled-linear schedule of Stable Diffusion (alpha_T = 0.068). PixArt's linear schedule
    has alpha_T = 0.006, which would amplify errors 157 times; PixArt-DMD uses 400. SDXL has the schedule
    of Stable Diffusion, but DMD2's one-step SDXL starts at 399. Flow matching amplifies nothing: 999.
    """
    neutral_guidance: float = 1.0
    """The stock pipeline's `guidance_scale` that means none, and below which it makes no second call."""
    autoencoder: str = "AutoencoderKL"
    """Class of the component `vae`."""
    added_tokens: int = 0
    """Embeddings of a prompt from other encoders, beside those of its `tokens`."""
    flow: bool = False
    """True if the pipeline samples by flow matching, false if it needs an alpha_bar schedule."""
    joint: bool = False
    """True if the tokens of text and image share their attention, false for cross-attention to the text."""
    lowercase: bool = False
    """True if the pipeline lowercases prompts before it encodes them."""
    loads_lora: bool = True
    """True if the stock pipeline has `load_lora_weights`."""
    masked: bool = False
    """True if the network takes an attention mask over padding tokens."""
    pooled: bool = False
    """True if the network also takes an embedding of the whole prompt."""
    unused: tuple[str, ...] = ()
    """Components that the pipeline may have and nothing here uses; a student has none of them."""
    kept_options: tuple[tuple[str, Any], ...] = ()
    """Options of the pipeline that a student takes over from its teacher's index, with their defaults."""
    fixed_options: tuple[tuple[str, Any], ...] = ()
    """Options of the pipeline that every student has: nothing here filters or marks pictures."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Component of each text encoder's tokenizer."""
        return tuple(name.replace("text_encoder", "tokenizer") for name, _ in self.text_encoders)

    def most_tokens(self, tokenizer: str) -> int:
        """Return the length to which the component `tokenizer` pads and truncates prompts."""
        kinds = dict(zip(self.tokenizers, (kind for _, kind in self.text_encoders), strict=True))
        return min(self.tokens, CLIP_TOKENS) if kinds[tokenizer].startswith("CLIP") else self.tokens

    def has_guidance(self, kind: str) -> bool:
        """Return True if attention guidance of `kind` is defined here: NASA is for cross-attention alone."""
        return not (self.joint and kind == "nasa")

    def options(self, index: dict[str, Any]) -> dict[str, Any]:
        """Return the pipeline's options, which are no components, given the teacher's model_index.json."""
        return {name: index.get(name, default) for name, default in self.kept_options} | dict(
            self.fixed_options
        )


FAMILIES = (
    Family(
        pipeline="StableDiffusionPipeline",
        network="unet",
        network_classes=("UNet2DConditionModel",),
        text_encoders=(("text_encoder", "CLIPTextModel"),),
        encoding="clip",
        tokens=77,
        start_timestep=999,
        unused=("safety_checker", "feature_extractor", "image_encoder"),
        fixed_options=(("requires_safety_checker", False),),
    ),
    Family(
        pipeline="StableDiffusionXLPipeline",
        network="unet",
        network_classes=("UNet2DConditionModel",),
        text_encoders=(("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")),
        encoding="sdxl",
        tokens=77,
        start_timestep=399,
        pooled=True,
        unused=("feature_extractor", "image_encoder"),
        kept_options=(("force_zeros_for_empty_prompt", True),),
        fixed_options=(("add_watermarker", False),),
    ),
    Family(
        pipeline="PixArtAlphaPipeline",
        network="transformer",
        # The published folders still name the second, older class.
        network_classes=("PixArtTransformer2DModel", "Transformer2DModel"),
        text_encoders=(("text_encoder", "T5EncoderModel"),),
        encoding="t5",
        tokens=120,
        start_timestep=400,
        lowercase=True,
        loads_lora=False,
        masked=True,
    ),
    Family(
        pipeline="SanaPipeline",
        network="transformer",
        network_classes=("SanaTransformer2DModel",),
        text_encoders=(("text_encoder", "Gemma2Model"),),
        encoding="gemma",
        tokens=300,
        start_timestep=999,
        autoencoder="AutoencoderDC",
        flow=True,
        lowercase=True,
        masked=True,
    ),
    Family(
        pipeline="StableDiffusion3Pipeline",
        network="transformer",
        network_classes=("SD3Transformer2DModel",),
        text_encoders=(
            ("text_encoder", "CLIPTextModelWithProjection"),
            ("text_encoder_2", "CLIPTextModelWithProjection"),
            ("text_encoder_3", "T5EncoderModel"),
        ),
        encoding="sd3",
        tokens=256,
        start_timestep=999,
        added_tokens=CLIP_TOKENS,
        flow=True,
        joint=True,
        pooled=True,
        unused=("image_encoder", "feature_extractor"),
    ),
    Family(
        pipeline="Flux2KleinPipeline",
        network="transformer",
        network_classes=("Flux2Transformer2DModel",),
        text_encoders=(("text_encoder", "Qwen3ForCausalLM"),),
        encoding="qwen3_layers",
        tokens=512,
        start_timestep=999,
        autoencoder="AutoencoderKLFlux2",
        flow=True,
        joint=True,
        kept_options=(("is_distilled", False),),
    ),
    Family(
        pipeline="ZImagePipeline",
        network="transformer",
        network_classes=("ZImageTransformer2DModel",),
        text_encoders=(("text_encoder", "Qwen3Model"),),
        encoding="qwen3",
        tokens=512,
        start_timestep=999,
        neutral_guidance=0.0,  # its pipeline adds scale (v - v of the empty prompt) to v
        flow=True,
        joint=True,
        masked=True,
    ),
    Family(
        pipeline="PixArtSigmaPipeline",
        network="transformer",
        network_classes=("PixArtTransformer2DModel", "Transformer2DModel"),
        text_encoders=(("text_encoder", "T5EncoderModel"),),
        encoding="t5",
        tokens=300,
        start_timestep=400,
        lowercase=True,
        loads_lora=False,
        masked=True,
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


def check_student_steps(source: str, family: Family, start: int, steps: int) -> None:
    """Check the timestep at which a student of several `steps` starts.

    Raises:
        ValueError: Fewer than two timesteps lie between its steps, or flow matching starts elsewhere than at
            pure noise.
    """
    if family.flow and start != family.start_timestep:
        raise ValueError(
            f"start_timestep {start} of {source!r}: in flow matching a student of {steps} steps starts at "
            f"pure noise: leave start_timestep out"
        )
    if start + 1 < 2 * steps:
        raise ValueError(
            f"start_timestep {start} of {source!r}: too small for a student of {steps} steps: set at least "
            f"{2 * steps - 1}"
        )


def _prediction(source: str) -> Any:
    try:
        return prediction_of(_read(source, "scheduler/scheduler_config.json"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"backbone {source!r}: its scheduler cannot be read: {one_line(error)}") from None


def _read(source: str, file: str) -> dict[str, Any]:
    """Read a JSON file of a folder or hub id; return an empty dict if it is not a JSON object."""
    name, revision = split_source(source)
    local = Path(source).exists()
    path = Path(source) / file if local else hf_hub_download(name, file, revision=revision)
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}
