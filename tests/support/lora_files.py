"""LoRA files with random weights, as diffusers, PEFT and kohya's tools write them.

The factors come from peft's own adapters on a component of a pipeline; `diffusers_file` and `peft_folder`
save them by the libraries' code, `kohya_file` under kohya's names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from workloads.backbones.families import family_of
from workloads.backbones.teacher_pipeline import open_pipeline

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
NETWORK_TARGETS = [*ATTENTION, "proj_in", "ff.net.2", "conv1", "time_emb_proj"]
TEXT_TARGETS = ["q_proj", "out_proj", "fc1"]
RANK = 3


def opened(source: Path) -> Any:
    """Return the stock pipeline of a folder, without LoRAs."""
    return open_pipeline(str(source))


def config(targets: list[str], **options: Any) -> LoraConfig:
    """Return settings of adapters with random factors."""
    options = {"r": RANK, "lora_alpha": RANK, **options}
    return LoraConfig(target_modules=targets, init_lora_weights=False, **options)


def factors(source: Path, part: str, settings: LoraConfig) -> dict[str, Tensor]:
    """Return random factors for a component under PEFT's names, without a prefix."""
    torch.manual_seed(len(part))
    module = getattr(opened(source), part)
    get_peft_model(module, settings)
    state: dict[str, Tensor] = get_peft_model_state_dict(module, adapter_name="default")
    return {name: value.detach() for name, value in state.items()}


def network_of(source: Path) -> str:
    """Return the name of the distilled component."""
    return family_of(str(source)).network


def diffusers_file(source: Path, folder: Path, parts: Mapping[str, LoraConfig]) -> Path:
    """Write `folder`/pytorch_lora_weights.safetensors by diffusers' own code."""
    layers = {part: factors(source, part, settings) for part, settings in parts.items()}
    metadata = {part: _listed(settings) for part, settings in parts.items()}
    LoraBaseMixin._save_lora_weights(folder, layers, metadata, True, None, None, True)
    return folder


def _listed(settings: LoraConfig) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()
    }


def peft_folder(source: Path, folder: Path, part: str, settings: LoraConfig) -> Path:
    """Write adapter_config.json and adapter_model.safetensors by peft's own code."""
    torch.manual_seed(len(part))
    get_peft_model(getattr(opened(source), part), settings).save_pretrained(folder)
    return folder


def kohya_file(
    file: Path, parts: Mapping[str, tuple[str, Mapping[str, Tensor]]], alpha: float, names: Mapping[str, str]
) -> Path:
    """Write kohya's format, in half precision as it is published.

    Args:
        file: to write.
        parts: prefix and factors of each component.
        alpha: of all layers.
        names: beginnings of layers' names that are called otherwise in kohya's model, with these names.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, state in parts.values():
        for name, value in state.items():
            layer, _, end = name.rpartition(".lora_")
            for own, theirs in names.items():
                layer = layer.replace(own, theirs)
            stem = f"{prefix}_{layer.replace('.', '_')}"
            end = end.replace("A.", "down.").replace("B.", "up.")
            tensors[f"{stem}.lora_{end}"] = value.half().contiguous()
            tensors[f"{stem}.alpha"] = torch.tensor(alpha).half()
    save_file(tensors, file, {"ss_network_alpha": str(alpha)})
    return file
