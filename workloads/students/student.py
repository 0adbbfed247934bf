"""The student: its initialisation, its sampling, and the pipeline folder that it is saved as.

    teacher -> new_student -> training -> save_student -> folder
    noise, prompts -> generate -> latents -> decode -> pictures

Shapes: B batch, N steps of the student, C latent channels, H latent size, P pixels a side.
"""

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workloads.attention import AttentionGuidance
from workloads.backbones.autoencoders import AUTOENCODERS, Autoencoder, decode_latents
from workloads.backbones.backbone import Backbone, load_model, load_network
from workloads.backbones.families import check_start, family_of
from workloads.backbones.network_calls import Network
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.guidance_input import GuidanceConditioned, GuidanceEmbedding
from workloads.layers.lora import AdapterSet, merged
from workloads.settings.train import LoraSettings
from workloads.students.adapter_file import write_adapters
from workloads.students.guidance_scale import write_embedding
from workloads.students.scale_range import ScaleRange
from workloads.students.schedulers import student_scheduler
from workloads.students.student_folder import write_student_folder
from workloads.students.unroll import unroll

EMBEDDING_GAIN = 30.0
"""Factor on a student's guidance embedding, which starts at zero and has to learn faster than the network.

Chosen on two miniatures, where pictures hardly follow the scale after a hundred steps without it."""
SAMPLE_BATCH = 32
"""Pictures that one network call generates."""


def new_student(
    backbone: Backbone,
    start_from: str | None = None,
    lora: LoraSettings | None = None,
    neutral_scale: float | None = None,
) -> nn.Module:
    """Return a trainable copy of the teacher with its LoRAs, or of the network of the pipeline `start_from`.

    With `lora` the student is an adapter set, and only its adapters are trainable: on the teacher's own
    network, which then serves both, or on the network of `start_from`. With `neutral_scale` a whole student
    reads guidance scales; at this one it draws by the network's own weights.

    Raises:
        ValueError: `start_from` has another family, other shapes or another prediction type than the
            teacher, or `lora` matches no layer.
    """
    network = backbone.network if start_from is None else _load_start(backbone, start_from)
    if lora is not None:
        return AdapterSet(network, lora)
    whole = copy.deepcopy(network) if start_from is None else network
    if neutral_scale is not None:
        whole = GuidanceConditioned(whole, GuidanceEmbedding.of(whole, neutral_scale, EMBEDDING_GAIN))
    return whole.requires_grad_(True).train()


def _load_start(backbone: Backbone, start_from: str) -> nn.Module:
    """Return the frozen network of a pipeline that a student of `backbone` may start from."""
    check_start(start_from, backbone.source)
    student = load_network(start_from, backbone.family, backbone.dtype).to(backbone.device)
    shapes = {name: value.shape for name, value in student.state_dict().items()}
    if shapes != {name: value.shape for name, value in backbone.network.state_dict().items()}:
        raise ValueError(
            f"student start_from {start_from!r} differs in shapes from the teacher {backbone.source!r}: "
            "start from a student of that teacher"
        )
    return student.requires_grad_(False).eval()


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
    """Return the student's latents (B, C, H, H) of B `prompts`, in N network calls for `batch` at a time.

    Args:
        noise: (B, C, H, H) for a student of one step; else the noise of each step, (B, N, C, H, H).
        prompts: Conditioning of B prompts, with guidance scales if the student reads them.
        guidance: Steers every call away from one negative prompt for all, or from one for each of the B
            samples.

    Raises:
        ValueError: `noise` is not for the student's number of steps.
    """
    noise = noise[:, None] if noise.dim() == 4 else noise
    if noise.shape[1] != backbone.student_steps:
        raise ValueError(f"noise for {noise.shape[1]} steps, but the student has {backbone.student_steps}")
    parts = []
    with guidance or nullcontext():
        for row in range(0, len(noise), batch):
            rows = slice(row, row + batch)
            if guidance is not None:
                guidance.state.rows = rows
            parts.append(_every_step(backbone, student, noise[rows], prompts[rows]))
    return torch.cat(parts)


def _every_step(backbone: Backbone, student: Network, noise: Tensor, prompts: Conditioning) -> Tensor:
    last = backbone.student_steps - 1
    noisy, _ = unroll(backbone, student, noise[:, 0], noise[:, 1:], prompts, last)
    return backbone.one_step(student, noisy, prompts, last)


def save_student(
    backbone: Backbone, student: nn.Module, folder: Path, scales: ScaleRange | None = None
) -> None:
    """Write the student as a pipeline folder that stock diffusers loads; see `student_folder`.

    Adapters are merged, and are written by themselves as well: see `adapter_file`. `scales` are those of a
    student that reads guidance scales: see `guidance_scale`.
    """
    network = merged(student)
    if isinstance(student, GuidanceConditioned):
        assert scales is not None, "a student that reads guidance scales has an interval of them"
        folder.mkdir(parents=True, exist_ok=True)
        write_embedding(network, copy.deepcopy(student.embedding).to("cpu", torch.float32), scales, folder)
    write_student_folder(backbone.source, network, student_scheduler(backbone), folder, backbone.loras)
    if isinstance(student, AdapterSet):
        write_adapters(student, backbone.family, folder)
