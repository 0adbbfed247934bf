"""Backbones of published sizes, built from their configs on the meta device.

Names, shapes and counts need no weights; a full training step needs random ones (slow).
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.workloads.backbones import architectures
from workloads.attention import AttentionGuidance
from workloads.attention.guidance import GuidedAttention, cross_attention_layers
from workloads.backbones.backbone import Backbone
from workloads.backbones.shape_checks import encoder_constructor
from workloads.layers.adapted_layer import AdaptedLayer
from workloads.layers.lora import AdapterSet
from workloads.layers.transformer_blocks import compile_blocks
from workloads.objectives.batch import Batch
from workloads.objectives.pgsb import PGSB
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import AttentionGuidanceSettings, LoraSettings
from workloads.students.schedulers import one_step_scheduler
from workloads.students.student import new_student
from workloads.training.step import make_engines, train_step

Sizes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    """Facts about a backbone from its published weights, or from its paper."""

    parameters: int
    tensors: int
    weights: Sizes
    """Shapes of some of the published weights."""
    encoders: tuple[int, ...]
    """Numbers of parameters of the text encoders."""
    latents: tuple[int, int, int]
    alpha: float
    """sqrt(alpha_bar[999])."""
    attention: int
    """Number of attention layers, half of which are cross-attention."""
    layers: int
    """Number of linear and convolution layers."""


SD15_WEIGHTS: Sizes = {
    "conv_in.weight": (320, 4, 3, 3),
    "time_embedding.linear_1.weight": (1280, 320),
    "down_blocks.0.attentions.0.proj_in.weight": (320, 320, 1, 1),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight": (1280, 768),
    "up_blocks.3.resnets.2.conv_shortcut.weight": (320, 640, 1, 1),
    "conv_out.weight": (4, 320, 3, 3),
}
SD21_WEIGHTS: Sizes = {
    "down_blocks.0.attentions.0.proj_in.weight": (320, 320),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "conv_out.weight": (4, 320, 3, 3),
}
SDXL_WEIGHTS: Sizes = {
    "add_embedding.linear_1.weight": (1280, 2816),
    "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight": (640, 2048),
    "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
    "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj.weight": (10240, 1280),
    "up_blocks.0.attentions.2.transformer_blocks.9.attn1.to_out.0.weight": (1280, 1280),
    "conv_out.weight": (4, 320, 3, 3),
}
PIXART_WEIGHTS: Sizes = {
    "pos_embed.proj.weight": (1152, 4, 2, 2),
    "adaln_single.emb.timestep_embedder.linear_1.weight": (1152, 256),
    "adaln_single.linear.weight": (6912, 1152),
    "caption_projection.linear_1.weight": (1152, 4096),
    "transformer_blocks.27.attn2.to_k.weight": (1152, 1152),
    "transformer_blocks.27.scale_shift_table": (6, 1152),
    "proj_out.weight": (32, 1152),
}
SD_ALPHA, PIXART_ALPHA = 0.06826, 0.006353
CLIP_L, CLIP_H, CLIP_G, T5_XXL = 123_060_480, 340_387_840, 694_659_840, 4_762_310_656

# fmt: off
PUBLISHED = {
    "sd15": Published(859_520_964, 686, SD15_WEIGHTS, (CLIP_L,), (4, 64, 64), SD_ALPHA, 32, 282),
    "sd21-base": Published(865_910_724, 686, SD21_WEIGHTS, (CLIP_H,), (4, 64, 64), SD_ALPHA, 32, 282),
    "sdxl": Published(
        2_567_463_684, 1680, SDXL_WEIGHTS, (CLIP_L, CLIP_G), (4, 128, 128), SD_ALPHA, 140, 794
    ),
    "pixart-512": Published(610_856_096, 603, PIXART_WEIGHTS, (T5_XXL,), (4, 64, 64), PIXART_ALPHA, 56, 287),
}
# fmt: on
every = pytest.mark.parametrize("name", architectures.NAMES)


class Recorder(nn.Module):
    """Network that records its arguments; its output channels are numbered."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, latents: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        self.dtype, self.args, self.kwargs = latents.dtype, args, kwargs
        numbers = torch.arange(self.channels, dtype=latents.dtype).view(1, -1, 1, 1)
        return (numbers.expand(len(latents), -1, *latents.shape[2:]),)


def recorded(name: str) -> tuple[Backbone, Recorder, Tensor]:
    """Call `predict` with two prompts on the CPU; return backbone, recording network and result."""
    backbone = architectures.build(name)
    recorder = Recorder(backbone.config["out_channels"])
    latents, timestep = torch.zeros(2, *backbone.latent_shape), torch.tensor([1, 2])
    prompts = architectures.conditioning(backbone, 2, "cpu")
    return backbone, recorder, backbone.predict(recorder, latents, timestep, prompts)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every
def test_weights_match_published_shapes(name: str) -> None:
    backbone, published = architectures.build(name), PUBLISHED[name]
    weights = {key: tuple(value.shape) for key, value in backbone.network.state_dict().items()}
    assert parameters(backbone.network) == published.parameters
    assert len(weights) == published.tensors
    assert {key: weights.get(key) for key in published.weights} == published.weights
    assert backbone.latent_shape == published.latents
    assert backbone.latent_scale == 8


@every
def test_text_encoders_match_published_sizes(name: str) -> None:
    backbone = architectures.build(name)
    with torch.device("meta"):
        encoders = [
            encoder_constructor(kind)(architectures.config(name, part))
            for part, kind in backbone.family.text_encoders
        ]
    assert tuple(parameters(encoder) for encoder in encoders) == PUBLISHED[name].encoders
    width = architectures.conditioning(backbone, 1).embeddings.shape[-1]
    assert sum(encoder.config.hidden_size for encoder in encoders) == width


@every
def test_noise_schedule_matches_family(name: str) -> None:
    schedule = architectures.build(name).schedule
    assert len(schedule) == 1000 and schedule.prediction == "epsilon"
    assert schedule.alpha[999].item() == pytest.approx(PUBLISHED[name].alpha, rel=1e-3)


@every
def test_one_step_scheduler_uses_start_timestep(name: str) -> None:
    backbone = architectures.build(name)
    scheduler = one_step_scheduler(backbone)
    scheduler.set_timesteps(1)
    assert scheduler.timesteps.tolist() == [backbone.start_timestep]
    alpha_bar = backbone.schedule.alpha[: backbone.start_timestep + 1].square()
    torch.testing.assert_close(scheduler.alphas_cumprod, alpha_bar, rtol=1e-4, atol=1e-6)


@every
def test_prediction_has_latent_shape(name: str) -> None:
    backbone = architectures.build(name)
    output = architectures.called_on_meta(backbone)
    assert output.shape == (2, *backbone.latent_shape) and output.dtype == torch.float32 and output.is_meta


@every
def test_variance_channels_are_dropped(name: str) -> None:
    backbone, recorder, output = recorded(name)
    assert recorder.channels == (8 if name == "pixart-512" else 4)
    assert output.shape == (2, *backbone.latent_shape)
    assert output[:, :, 0, 0].tolist() == [[0.0, 1.0, 2.0, 3.0]] * 2


def test_sdxl_gets_pooled_embeddings_and_sizes() -> None:
    backbone, recorder, _ = recorded("sdxl")
    added = recorder.kwargs["added_cond_kwargs"]
    assert added["text_embeds"].shape == (2, 1280)
    assert added["time_ids"].tolist() == [[1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0]] * 2
    inputs: list[tuple[int, ...]] = []
    added_embedding = backbone.network.get_submodule("add_embedding")
    added_embedding.register_forward_pre_hook(lambda _, args: inputs.append(args[0].shape))
    architectures.called_on_meta(backbone)
    assert inputs == [(2, 1280 + 6 * 256)]


def test_pixart_masks_every_cross_attention() -> None:
    backbone, recorder, _ = recorded("pixart-512")
    assert recorder.kwargs["encoder_attention_mask"].shape == (2, 120)
    masks: list[tuple[int, ...]] = []
    for layer in cross_attention_layers(backbone.network):
        layer.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["attention_mask"].shape), with_kwargs=True
        )
    architectures.called_on_meta(backbone)
    assert masks == [(2, 1, 120)] * 28


@every
@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("all",)], ids="-".join)
def test_lora_adapts_target_layers(name: str, targets: tuple[str, ...]) -> None:
    network, rank = architectures.build(name).network, 64
    # Weights of two or more dimensions are linear and convolution layers; there are no embeddings.
    layers = {k.removesuffix(".weight"): w for k, w in network.state_dict().items() if k.endswith(".weight")}
    wanted = {k: w for k, w in layers.items() if w.dim() > 1 and (k.endswith(targets) or "all" in targets)}
    with torch.device("meta"):
        fake_score = AdapterSet(network, LoraSettings(rank=rank, targets=targets))
    adapted = {key for key, layer in network.named_modules() if isinstance(layer, AdaptedLayer)}
    assert adapted == set(wanted)
    published = PUBLISHED[name]
    assert len(adapted) == (published.layers if "all" in targets else 2 * published.attention)
    # A: rank x (inputs x window), B: outputs x rank.
    expected = sum(rank * (w[0].numel() + w.shape[0]) for w in wanted.values())
    assert parameters(fake_score) == expected


@every
def test_every_transformer_block_is_compiled(name: str) -> None:
    network = architectures.build(name).network
    compile_blocks(network)
    blocks = {layer.rsplit(".", 1)[0] for layer, _ in network.named_modules() if layer.endswith(".attn2")}
    compiled = {name for name, layer in network.named_modules() if layer._compiled_call_impl is not None}
    assert compiled == blocks and len(blocks) >= 16


@every
@pytest.mark.parametrize("kind", ["nasa", "nag"])
def test_every_cross_attention_layer_is_guided(name: str, kind: Any) -> None:
    backbone = architectures.build(name)
    negative = architectures.conditioning(backbone, 1)
    with AttentionGuidance(backbone.network, negative, AttentionGuidanceSettings(kind, 0.5)):
        processors = [getattr(module, "processor", None) for module in backbone.network.modules()]
        guided = sum(isinstance(processor, GuidedAttention) for processor in processors)
        output = architectures.called_on_meta(backbone)
    assert guided == PUBLISHED[name].attention // 2
    assert output.shape == (2, *backbone.latent_shape)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_full_step_of_sd15() -> None:
    """In float32, at batch 1, with AdamW for both networks: 17.9 GB and two minutes on one thread."""
    torch.manual_seed(0)
    backbone = architectures.build("sd15", "cpu")
    train = PGSBSettings()
    student = new_student(backbone)
    objective = PGSB(backbone, architectures.conditioning(backbone, 1, "cpu"), train)
    for parameter in objective.fake_score.parameters():
        nn.init.normal_(parameter, std=0.02)  # else the scores are equal and the student has no gradient
    engines = make_engines(student, objective, train)
    draws = objective.draw(1, torch.Generator().manual_seed(0))
    watched = {
        "student": next(student.parameters()),
        "teacher": next(backbone.network.parameters()),
        "fake score": next(objective.fake_score.parameters()),
    }
    before = {part: parameter.detach().clone() for part, parameter in watched.items()}
    prompts = architectures.conditioning(backbone, 1, "cpu")
    losses = train_step(objective, engines, Batch(prompts), draws)
    # The last is the spread over the batch, which is 0 for one image.
    assert losses[:3].isfinite().all() and (losses[:3] > 0).all()
    moved = {part: not torch.equal(parameter, before[part]) for part, parameter in watched.items()}
    assert moved == {"student": True, "teacher": False, "fake score": True}
