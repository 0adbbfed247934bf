"""The one-step student: its initialisation, its sampling, and the pipeline folder that it is saved as.

    teacher -> new_student -> training -> save_student -> folder
    noise, prompts -> generate -> latents -> decode -> pictures

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

NOT_COPIED = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl", "*.py", "*.msgpack", "*.fp16.*", "*.non_ema.*")
"""Files of a teacher's folder that a student does not need: pickles, programs, duplicate weights."""
SAMPLE_BATCH = 32
"""Pictures that one network call generates."""


def new_student(
    backbone: Backbone, start_from: str | None = None, lora: LoraSettings | None = None
) -> nn.Module:
    """Return a trainable copy of the teacher, or of the network of the pipeline `start_from`.

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


def load_autoencoder(source: str, device: torch.device | str = "cpu") -> AutoencoderKL:
    """Return the frozen autoencoder of a pipeline, in float32: half precision overflows in some.

    Raises:
        ValueError: the weights are missing, are not safetensors, or do not match the config.
    """
    vae = load_model(AutoencoderKL, source, "vae", torch.float32)
    frozen: AutoencoderKL = vae.to(device).requires_grad_(False).eval()
    return frozen


def decode_batch_size(latent_size: int) -> int:
    """Return the number of latents that are decoded together, which bounds memory: 16 up to H = 64."""
    return max(1, 16 * 64**2 // max(latent_size, 64) ** 2)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode latents (B, C, H, H) to pictures (B, 3, P, P) in [-1, 1], on the CPU."""
    scaled = latents.float() / vae.config["scaling_factor"]
    parts = scaled.split(decode_batch_size(latents.shape[-1]))
    return torch.cat([vae.decode(part).sample.clamp(-1, 1).cpu() for part in parts])


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


def one_step_scheduler(source: str, start_timestep: int) -> DDIMScheduler:
    """Return a stock scheduler whose single step is x_0 = (z - sigma_s e) / alpha_s at s = `start_timestep`.

    Both beta schedules are straight lines or their squares, so a table that is cut after s and ends at
    beta_s has the same alpha_bar up to s. With "trailing" spacing s is the only step, and with
    `set_alpha_to_one` that step returns x_0.
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
    """Write the student as a pipeline folder that stock diffusers loads.

    The network (half precision, adapters merged) and the scheduler are the student's. All other files are
    copied from the teacher's folder, so that a large text encoder is never loaded here.
    """
    source = Path(backbone.source)
    if not source.exists():
        # Imported here, as it imports the parts of every pipeline, which takes seconds.
        from diffusers import DiffusionPipeline

        source = Path(DiffusionPipeline.download(backbone.source, use_safetensors=True))
    shutil.copytree(
        source, folder, ignore=_ignored_files(source, backbone.family.network), dirs_exist_ok=True
    )
    whole: Any = copy.deepcopy(student).eval()
    merge_adapters(whole)
    whole.half().save_pretrained(folder / backbone.family.network)
    one_step_scheduler(backbone.source, backbone.start_timestep).save_pretrained(folder / "scheduler")


def _ignored_files(source: Path, network: str) -> Callable[[str, list[str]], set[str]]:
    """Return the `ignore` of `shutil.copytree`: names in the teacher's folder that are not copied."""
    index, unwanted = model_index(str(source)), shutil.ignore_patterns(network, "scheduler", *NOT_COPIED)

    def ignored_names(folder: str, names: list[str]) -> set[str]:
        ignored = set(unwanted(folder, names))
        if Path(folder) == source:
            # Published folders often repeat the whole model in one file, or for other libraries.
            ignored |= {name for name in names if name.endswith(".safetensors")}
            ignored |= {name for name in names if (source / name).is_dir() and name not in index}
        return ignored

    return ignored_names
