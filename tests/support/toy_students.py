"""Students of toy teachers, changed at random instead of trained."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from workloads.backbones.backbone import load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.prompts.text_encoder import load_text_encoder
from workloads.layers.lora import AdapterSet
from workloads.settings.train import LoraSettings
from workloads.students.origin import Origin, save_origin
from workloads.students.student import new_student, save_student

Change = Callable[[nn.Module], None]


def every_weight(network: nn.Module) -> None:
    """Change all weights, as the training of a whole student does."""
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.02)


def every_layer(network: nn.Module) -> None:
    """Change the weights of linear and convolution layers alone."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            layer.weight.add_(torch.randn_like(layer.weight), alpha=0.02)


@torch.no_grad()
def whole_student(teacher: Path, folder: Path, change: Change = every_weight) -> None:
    """Save a whole student of `teacher` whose network is changed."""
    backbone = load_backbone(str(teacher))
    torch.manual_seed(1)
    student = new_student(backbone)
    change(student)
    save_student(backbone, student, folder)
    save_origin(folder, Origin(str(teacher)))


@torch.no_grad()
def adapter_student(teacher: Path, folder: Path, targets: tuple[str, ...], size: float = 0.1) -> None:
    """Save an adapter student of `teacher` whose adapters are on the layers with these ends of names.

    `size` is the standard deviation of the adapters' weights.
    """
    backbone = load_backbone(str(teacher))
    torch.manual_seed(1)
    student = new_student(backbone, lora=LoraSettings(rank=3, alpha=6, targets=targets))
    assert isinstance(student, AdapterSet)
    for adapter in student.adapters().values():
        adapter.down.weight.normal_(std=size)
        adapter.up.weight.normal_(std=size)
    save_student(backbone, student, folder)
    save_origin(folder, Origin(str(teacher)))


@torch.no_grad()
def styled_student(teacher: Path, folder: Path) -> None:
    """Save a whole student of `teacher` whose text encoders have a LoRA too."""
    styled = folder.with_name(f"{folder.name}-teacher")
    shutil.copytree(teacher, styled)
    torch.manual_seed(2)
    for part, kind in family_of(str(teacher)).text_encoders:
        if kind.startswith("CLIP"):
            encoder = load_text_encoder(str(teacher), part, kind, torch.float32)
            every_layer_below(encoder, ("q_proj", "v_proj", "out_proj", "fc1"))
            encoder.save_pretrained(styled / part)
    whole_student(styled, folder, every_layer)
    save_origin(folder, Origin(str(teacher), loras=("style.safetensors x 1",)))


def every_layer_below(network: nn.Module, ends: tuple[str, ...]) -> None:
    """Change the weights of layers with these ends of names, by products of rank 4 as a LoRA's are."""
    for name, layer in network.named_modules():
        if name.endswith(ends) and isinstance(layer, nn.Linear):
            up, down = torch.randn(layer.out_features, 4), torch.randn(4, layer.in_features)
            layer.weight.add_(up @ down, alpha=0.025)
