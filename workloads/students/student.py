"""The one-step student: where it starts, how it draws, and the folder it is saved as.

Shapes: B batch, C latent channels, H latent size, P pixels a side.
"""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import Backbone, Network, load_model, load_network, load_scheduler_config
from workloads.backbones.conditioning import Conditioning
from workloads.backbones.families import check_start, model_index
from workloads.layers.lora import adapt_student, merge_adapters
from workloads.settings.train import LoraSettings

NO_STUDENTS = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.py", "*.msgpack", "*.fp16.*", "*.non_ema.*")
"""Files of a teacher that a student does without: pickles, programs, and the same weights once more."""


def new_student(
    backbone: Backbone, start_from: str | None = None, lora: LoraSettings | None = None
) -> nn.Module:
    """A trainable copy of the teacher, or the network of the pipeline `start_from`.

    With `lora` only an adapter of it is trained.

    Raises:
        ValueError: `start_from` is of another family, has other shapes or predicts something else, or
            `lora` names no layer.
    """
    student = _start(backbone, start_from).requires_grad_(True).train()
    if lora is not None:
        adapt_student(student, lora)
    return student


def _start(backbone: Backbone, start_from: str | None) -> nn.Module:
    if start_from is None:
        return copy.deepcopy(backbone.network)
    check_start(start_from, backbone.source)
    student = load_network(start_from, backbone.family, backbone.dtype).to(backbone.device)
    shapes = {name: value.shape for name, value in student.state_dict().items()}
    if shapes != {name: value.shape for name, value in backbone.network.state_dict().items()}:
        raise ValueError(f"student start_from {start_from!r} has not the shapes of {backbone.source!r}")
    return student


def load_autoencoder(source: str, device: torch.device | str = "cpu") -> AutoencoderKL:
    """The frozen float32 autoencoder of a pipeline (half precision overflows in some).

    Raises:
        ValueError: its weights are missing, are not safetensors, or do not fit its config.
    """
    vae = load_model(AutoencoderKL, source, "vae", torch.float32)
    frozen: AutoencoderKL = vae.to(device).requires_grad_(False).eval()
    return frozen


def decoded_at_once(size: int) -> int:
    """Pictures of latents of H = `size` that are decoded together, for their memory: 16 of H = 64."""
    return max(1, 16 * 64**2 // max(size, 64) ** 2)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (B, C, H, H) -> pictures (B, 3, P, P) in [-1, 1], on the CPU."""
    scaled = latents.float() / vae.config["scaling_factor"]
    parts = scaled.split(decoded_at_once(latents.shape[-1]))
    return torch.cat([vae.decode(part).sample.clamp(-1, 1).cpu() for part in parts])


@torch.no_grad()
def generate(
    backbone: Backbone,
    student: Network,
    noise: Tensor,
    prompts: Conditioning,
    guidance: AttentionGuidance | None = None,
    batch: int = 32,
) -> Tensor:
    """One-step latents (B, C, H, H) of all `prompts` from `noise` (B, C, H, H).

    `guidance` is away from one negative prompt, or from one for each of the B samples.
    """
    parts = []
    with guidance or nullcontext():
        for row in range(0, len(noise), batch):
            rows = slice(row, row + batch)
            if guidance is not None:
                guidance.state.rows = rows
            parts.append(backbone.one_step(student, noise[rows], prompts[rows]))
    return torch.cat(parts)


def one_step_scheduler(source: str, start_timestep: int) -> DDIMScheduler:
    """A stock scheduler whose single step is x_0 = (z - sigma_s e) / alpha_s at s.

    Both beta tables are (powers of) straight lines, so cutting them after s and ending them at
    beta_s leaves alpha_bar as it was; "trailing" then makes s the only step, and
    set_alpha_to_one makes what it returns x_0 itself.
    """
    config = load_scheduler_config(source)
    betas = DDIMScheduler.from_config(config).betas
    changes: dict[str, Any] = {
        "num_train_timesteps": start_timestep + 1,
        "beta_end": betas[start_timestep].item(),
        "timestep_spacing": "trailing",
        "set_alpha_to_one": True,
        "clip_sample": False,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "steps_offset": 1,
        "trained_betas": None if config.get("trained_betas") is None else betas.tolist(),
    }
    kept = ("beta_start", "beta_schedule", "prediction_type")
    return DDIMScheduler(**{key: config[key] for key in kept if key in config}, **changes)


def save_student(backbone: Backbone, student: nn.Module, folder: Path) -> None:
    """Writes the student as a pipeline folder that stock diffusers opens.

    Network (half precision) and scheduler are the student's; all else is copied from the
    teacher's folder as files, so that a large text encoder is never loaded here.
    """
    source = Path(backbone.source)
    if not source.exists():
        from diffusers import DiffusionPipeline  # it imports every pipeline's parts: seconds

        source = Path(DiffusionPipeline.download(backbone.source, use_safetensors=True))
    shutil.copytree(source, folder, ignore=_others(source, backbone.family.network), dirs_exist_ok=True)
    whole: Any = copy.deepcopy(student).eval()
    merge_adapters(whole)
    whole.half().save_pretrained(folder / backbone.family.network)
    one_step_scheduler(backbone.source, backbone.start_timestep).save_pretrained(folder / "scheduler")


def _others(source: Path, network: str) -> Callable[[str, list[str]], set[str]]:
    """For shutil.copytree: what a student does not share with the pipeline folder it was distilled from."""
    index, unwanted = model_index(str(source)), shutil.ignore_patterns(network, "scheduler", *NO_STUDENTS)

    def others(folder: str, names: list[str]) -> set[str]:
        ignored = set(unwanted(folder, names))
        if Path(folder) == source:
            # Published folders often hold the whole model again as one file, or for other libraries.
            ignored |= {name for name in names if name.endswith(".safetensors")}
            ignored |= {name for name in names if (source / name).is_dir() and name not in index}
        return ignored

    return others
