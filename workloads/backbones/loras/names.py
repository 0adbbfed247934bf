"""Names of a LoRA's weights in the formats of diffusers, PEFT and kohya. Imports no torch.

    "unet.mid_block.attentions.0.proj_in.lora_A.weight"             diffusers, now
    "unet.mid_block.(...).attn1.processor.to_q_lora.down.weight"    diffusers, at first
    "base_model.model.mid_block.attentions.0.proj_in.lora_A.weight" PEFT
    "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"     kohya

Each is a stem and a role: the first factor A (`down`), the second factor B (`up`), or `alpha`. `place_of`
reads a stem, and `LayerNames` finds the layer that it means in a component of the pipeline.
"""

from collections.abc import Iterable
from dataclasses import dataclass

DOWN, UP, ALPHA = "down", "up", "alpha"
ROLES = {
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_A.default.weight": DOWN,
    ".lora_B.default.weight": UP,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".alpha": ALPHA,
}
"""Role of a tensor, by the end of its name."""
OTHER_KINDS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "lora_mid": "a LoRA in Tucker's form",
    "lora_embedding_": "a LoRA of token embeddings",
    "lora_A.bias": "a LoRA with biases",
    "lora_B.bias": "a LoRA with biases",
}
"""Updates that are not of the form W + s B A, by a part of the names of their tensors."""
NETWORK = "network"
"""Stands for the component that is distilled, in formats that call every network a unet."""
FLAT_PARTS = {
    "lora_unet_": NETWORK,
    "lora_transformer_": NETWORK,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
}
"""Component of each prefix of kohya's names, in which underscores stand for the dots of a layer's name."""
DOTTED_PARTS = {
    "unet.": "unet",
    "transformer.": "transformer",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "diffusion_model.": NETWORK,
}
PEFT_PREFIX = "base_model.model."
_CLIP = "text_model."
"""Beginning of the names of CLIP's layers in some versions of transformers, and in published files."""
_OLD_NAMES = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names that the first diffusers format gives to the attention layers of a text encoder."""


@dataclass(frozen=True)
class Place:
    """The layer that a stem means, as far as the stem tells."""

    part: str | None
    """Component of the pipeline, `NETWORK`, or None if the stem does not tell."""
    layer: str
    """Name of the layer in the component."""
    flat: bool = False
    """True if underscores stand for the name's dots."""


def split_name(name: str) -> tuple[str, str] | None:
    """Return stem and role of a tensor's name; None if it has no role in a LoRA."""
    for ending, role in ROLES.items():
        if name.endswith(ending):
            return name.removesuffix(ending), role
    return None


def other_kind(names: Iterable[str]) -> str | None:
    """Return what the tensors of these names are if they are another kind of update than a LoRA."""
    every = list(names)
    return next((kind for piece, kind in OTHER_KINDS.items() if any(piece in name for name in every)), None)


def place_of(stem: str) -> Place:
    """Return the place that a stem names."""
    for prefix, part in FLAT_PARTS.items():
        if stem.startswith(prefix):
            return Place(part, stem.removeprefix(prefix), flat=True)
    for prefix, part in DOTTED_PARTS.items():
        if stem.startswith(prefix):
            return Place(part, stem.removeprefix(prefix))
    return Place(None, stem.removeprefix(PEFT_PREFIX))


class LayerNames:
    """The layers of one component, by all names that LoRAs give them."""

    def __init__(self, weights: Iterable[str]) -> None:
        """Read the names of the component's weights."""
        layers = {name.removesuffix(".weight").removeprefix(_CLIP): name for name in weights}
        self._dotted = layers
        self._flat = {layer.replace(".", "_"): name for layer, name in layers.items()}

    def weight(self, place: Place) -> str | None:
        """Return the name of the weight at `place`; None if the component has no such layer."""
        if place.flat:
            return self._flat.get(place.layer.removeprefix("text_model_"))
        layer = place.layer.replace(".processor.", ".").removeprefix(_CLIP)
        head, _, last = layer.rpartition(".")
        tried = (layer, f"{layer}.0", f"{head}.{_OLD_NAMES.get(last, last)}")
        return next((self._dotted[name] for name in tried if name in self._dotted), None)
