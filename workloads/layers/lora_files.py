"""A fake score's adapters as a folder in PEFT's format, which diffusers and PEFT open."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from workloads.layers.lora import FakeScore

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of the network's layers."""


def export_peft(fake_score: FakeScore, folder: Path) -> None:
    """Writes the adapters and their configuration into `folder`."""
    settings = fake_score.settings
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": fake_score.layers,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    state = fake_score.state_dict()
    save_file({peft: state[own].contiguous() for peft, own in _names(fake_score).items()}, folder / WEIGHTS)


def import_peft(fake_score: FakeScore, folder: Path) -> None:
    """Takes the adapters in `folder` into `fake_score`, whose settings must be theirs.

    Raises:
        ValueError: they are of other layers, of another rank or scale, or not there.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
        found = load_file(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no adapters in PEFT's format ({error})") from None
    settings, names = fake_score.settings, _names(fake_score)
    theirs = (config.get("r"), config.get("lora_alpha"))
    if theirs != (settings.rank, settings.alpha) or config.get("use_rslora"):
        raise ValueError(
            f"{folder}: rank and alpha are {theirs}, of the fake score {(settings.rank, settings.alpha)}"
        )
    if odd := sorted(set(found) ^ set(names)):
        raise ValueError(f"{folder}: its adapters are not of the same layers, as {odd[0]}")
    fake_score.load_state_dict({own: found[peft] for peft, own in names.items()})


def _names(fake_score: FakeScore) -> dict[str, str]:
    """PEFT's name of each weight, and its key in the fake score's state."""
    parts = {"lora_A": "down", "lora_B": "up"}
    return {
        f"{PREFIX}{layer}.{peft}.weight": f"{own}.{key}.weight"
        for layer, key in zip(fake_score.layers, fake_score.down, strict=True)
        for peft, own in parts.items()
    }
