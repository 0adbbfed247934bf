"""Guesses the model that a LoRA was trained on, for the message that refuses it."""

from collections.abc import Iterable

from workloads.backbones.loras.pairs import Pair, Pairs

_BY_NAME = {
    "double_blocks": "FLUX",
    "single_blocks": "FLUX",
    "single_transformer_blocks": "FLUX",
    "joint_blocks": "Stable Diffusion 3",
    "add_q_proj": "Stable Diffusion 3",
    "noise_refiner": "Z-Image",
    "layers_0_attention": "Z-Image",
    "layers.0.attention": "Z-Image",
    "conv_inverted": "SANA",
    "input_blocks_4_1": "SDXL",
    "text_encoder_2": "SDXL",
    "lora_te2_": "SDXL",
}
"""Models by a piece of the names in their LoRAs."""
_BY_TEXT_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL", 1152: "PixArt"}
"""Models by the width of the text that their cross-attention reads."""
_HEADERS = ("ss_base_model_version", "modelspec.architecture")
"""Entries of a header in which kohya's tools name the model."""


def guess(found: Pairs) -> str:
    """Return a remark about the model of a LoRA, to follow a sentence; empty if nothing tells it."""
    stated = next((found.header[name] for name in _HEADERS if found.header.get(name)), None)
    if stated is not None:
        return f"; its header says that it is for {stated[:60]!r}"
    model = _by_name(pair.stem for pair in found.pairs) or _by_width(found.pairs)
    return f"; it looks like a LoRA of {model}" if model else ""


def _by_name(stems: Iterable[str]) -> str | None:
    every = list(stems)
    return next((model for piece, model in _BY_NAME.items() if any(piece in stem for stem in every)), None)


def _by_width(pairs: Iterable[Pair]) -> str | None:
    endings = ("attn2.to_k", "attn2_to_k", "attn2.processor.to_k")
    widths = (pair.down.shape[1] for pair in pairs if pair.stem.endswith(endings))
    return _BY_TEXT_WIDTH.get(next(widths, 0))
