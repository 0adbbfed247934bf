"""The adapters of a student as a LoRA file, in the format of diffusers.

Shapes: r rank, `in` and `out` widths of a layer.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from workloads.backbones.families import Family
from workloads.layers.lora import AdapterSet
from workloads.students.origin import ADAPTERS


@torch.no_grad()
def write_adapters(student: AdapterSet, family: Family, folder: Path) -> None:
    """Write the student's adapters into `folder`, relative to its teacher and in float32.

    The keys are those of diffusers, PART.LAYER.lora_A.weight (r, in) and PART.LAYER.lora_B.weight (out, r),
    or those shapes of a convolution. The factor alpha / rank is in B, so the LoRA's own scale is 1.
    """
    tensors: dict[str, Tensor] = {}
    for name, adapter in student.adapters().items():
        prefix = f"{family.network}.{name}"
        tensors[f"{prefix}.lora_A.weight"] = _plain(adapter.down.weight)
        tensors[f"{prefix}.lora_B.weight"] = _plain(adapter.up.weight * adapter.scale)
    save_file(tensors, folder / ADAPTERS, {"format": "pt"})


def _plain(weight: Tensor) -> Tensor:
    return weight.detach().float().cpu().contiguous()
