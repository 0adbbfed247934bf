"""The one-step student: its initialisation, its sampling, and the pipeline folder that it is saved as.

    teacher -> new_student -> training -> save_student -> folder
    noise, prompts -> generate -> latents -> decode -> pictures

Shapes: B batch, C latent channels, H latent size, P pixels a side.
"""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from workloads.attention import AttentionGuidance
from workloads.backbones.autoencoders import AUTOENCODERS, Autoencoder, decode_latents
from workloads.backbones.backbone import Backbone, load_model, load_network, load_scheduler_config
from workloads.backbones.families import check_start, family_of
from workloads.backbones.network_calls import Network
from workloads.backbones.noise_schedule import betas_of, flow_shift
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.lora import adapt_student
from workloads.settings.train import LoraSettings
from workloads.students.student_folder import write_student_folder

SAMPLE_BATCH = 32
"""Pictures that one network call generates."""


def new_student(
    backbone: Backbone, start_from: str | None = None, lora: LoraSettings | None = None
) -> nn.Module:
    """Return a trainable copy of the teacher with its LoRAs, or of the network of the pipeline `start_from`.

    With `lora` only an adapter of it is trainable.

    Raises:
        ValueError: `start_from` has another family, other shapes or another prediction type than the
            teacher, or `lora` matches no layer.
    """
    student = _initial_network(backbone, start_from).requires_grad_(True).train()
    if lora is not None:
        adapt_student(student, lora)
    return student


def _initial_network(backbone: Backbone, start_from: str | None) -> nn.Module:
    if start_from is None:
        return copy.deepcopy(backbone.network)
    check_start(start_from, backbone.source)
    student = load_network(start_from, backbone.family, backbone.dtype).to(backbone.device)
    shapes = {name: value.shape for name, value in student.state_dict().items()}
    if shapes != {name: value.shape for name, value in backbone.network.state_dict().items()}:
        raise ValueError(
            f"student start_from {start_from!r} differs in shapes from the teacher {backbone.source!r}: "
            "start from a student of that teacher"
        )
    return student


def load_autoencoder(source: str, device: torch.device | str = "cpu") -> Autoencoder:
    """Return the frozen autoencoder of a pipeline, in float32: half precision overflows in some.

    Raises:
        ValueError: the weights are missing, are not safetensors, or do not match the config.
    """
    vae: Any = load_model(AUTOENCODERS[family_of(source).autoencoder].model, source, "vae", torch.float32)
    frozen: Autoencoder = vae.to(device).requires_grad_(False).eval()
    return frozen


def decode_batch_size(latent_size: int) -> int:
    """Return the number of latents that are decoded together, which bounds memory: 16 up to H = 64."""
    return max(1, 16 * 64**2 // max(latent_size, 64) ** 2)


@torch.no_grad()
def decode(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Decode latents (B, C, H, H) to pictures (B, 3, P, P) in [-1, 1], contiguous and on the CPU."""
    parts = torch.split(latents.float(), decode_batch_size(latents.shape[-1]))
    # Some autoencoders return channels last.
    return torch.cat([decode_latents(vae, part).clamp(-1, 1).cpu() for part in parts]).contiguous()


@torch.no_grad()
def generate(
    backbone: Backbone,
    student: Network,
    noise: Tensor,
    prompts: Conditioning,
    guidance: AttentionGuidance | None = None,
    batch: int = SAMPLE_BATCH,
) -> Tensor:
    """Return the one-step latents (B, C, H, H) of B `prompts` from `noise` (B, C, H, H), `batch` at a time.

    `guidance` steers away from one negative prompt for all, or from one for each of the B samples.
    """
    parts = []
    with guidance or nullcontext():
        for row in range(0, len(noise), batch):
            rows = slice(row, row + batch)
            if guidance is not None:
                guidance.state.rows = rows
            parts.append(backbone.one_step(student, noise[rows], prompts[rows]))
    return torch.cat(parts)


def one_step_scheduler(backbone: Backbone) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """Return a stock scheduler whose single step is x_0 = (z - sigma_s e) / alpha_s at the start timestep s.

    DDIM's table holds the betas of the backbone's own schedule up to s, so that alpha_s is the same number
    for any schedule. With "trailing" spacing s is the only step, and with `set_alpha_to_one` it returns x_0.
    In flow matching the single Euler step starts at t = 1 and is x_0 = z - v, whatever the shift.
    """
    steps, config = backbone.start_timestep + 1, load_scheduler_config(backbone.source)
    if backbone.schedule.is_flow:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=flow_shift(config))
    return DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=betas_of(config)[:steps].tolist(),
        prediction_type=backbone.schedule.prediction,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,
    )


def save_student(backbone: Backbone, student: nn.Module, folder: Path) -> None:
    """Write the student as a pipeline folder that stock diffusers loads; see `student_folder`."""
    write_student_folder(backbone.source, student, one_step_scheduler(backbone), folder, backbone.loras)
