"""Invariants of attention guidance in the miniature students."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from workloads.attention import AttentionGuidance
from workloads.attention.kernels import nag, nasa
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.families import family_of
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import save_defaults
from workloads.students.sampler import Generator
from workloads.students.student import generate, new_student, save_student

PROMPTS = ["a large red circle", "a tiny blue square on a white background", "a cross"]
NEGATIVES = ["red", "a white background", "a large green cross at the top on a grey background"]
KERNELS = [
    AttentionGuidanceSettings("nasa", 0.6),
    AttentionGuidanceSettings("nag", 3.0),
    AttentionGuidanceSettings("nag", 0.7, clip=0, blend=1),
    AttentionGuidanceSettings("vsf", 0.6),
]


def drawn(
    backbone: Backbone, encoder: TextEncoder, guidance: AttentionGuidance | None, rows: list[int]
) -> Tensor:
    noise = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = encoder.encode([PROMPTS[row] for row in rows])
    return generate(backbone, backbone.network, noise[rows], prompts, guidance)


@pytest.fixture(scope="module", params=TEACHERS)
def student(request: pytest.FixtureRequest) -> tuple[Backbone, TextEncoder]:
    source = str(WEIGHTS / request.param)
    start = None if family_of(source).flow else 400
    return load_backbone(source, start_timestep=start), TextEncoder(source)


def first_kernel(backbone: Backbone) -> AttentionGuidanceSettings:
    return next(settings for settings in KERNELS if backbone.family.has_guidance(settings.kind))


def processors_of(backbone: Backbone) -> list[Any]:
    return [module.processor for module in backbone.network.modules() if hasattr(module, "processor")]


def test_strength_zero_is_the_plain_student(student: tuple[Backbone, TextEncoder]) -> None:
    backbone, encoder = student
    processors = processors_of(backbone)
    plain = drawn(backbone, encoder, None, [0, 1, 2])
    negatives = encoder.encode(NEGATIVES)
    kinds: tuple[Literal["none", "nasa", "nag", "vsf"], ...] = ("none", "nasa", "nag", "vsf")
    for settings in map(AttentionGuidanceSettings, kinds):
        with AttentionGuidance(backbone.network, negatives, settings):
            assert processors_of(backbone) == processors
        off = AttentionGuidance(backbone.network, negatives, settings)
        assert torch.equal(drawn(backbone, encoder, off, [0, 1, 2]), plain)


@pytest.mark.parametrize("settings", KERNELS, ids=lambda s: s.label)
def test_guidance_is_removed_after_use(
    student: tuple[Backbone, TextEncoder], settings: AttentionGuidanceSettings
) -> None:
    backbone, encoder = student
    if not backbone.family.has_guidance(settings.kind):
        pytest.skip("NASA is not defined for joint attention")
    plain = drawn(backbone, encoder, None, [0, 1, 2])
    guidance = AttentionGuidance(backbone.network, encoder.encode(NEGATIVES), settings)
    assert (drawn(backbone, encoder, guidance, [0, 1, 2]) - plain).abs().max() > 0.05
    assert torch.equal(drawn(backbone, encoder, None, [0, 1, 2]), plain)
    with pytest.raises(RuntimeError), guidance:
        raise RuntimeError
    assert torch.equal(drawn(backbone, encoder, None, [0, 1, 2]), plain)


@pytest.mark.parametrize("settings", KERNELS, ids=lambda s: s.label)
def test_order_batch_and_padding_do_not_matter(
    student: tuple[Backbone, TextEncoder], settings: AttentionGuidanceSettings
) -> None:
    backbone, encoder = student
    if not backbone.family.has_guidance(settings.kind):
        pytest.skip("NASA is not defined for joint attention")
    negatives = encoder.encode(NEGATIVES)
    together = drawn(backbone, encoder, AttentionGuidance(backbone.network, negatives, settings), [0, 1, 2])
    order = [2, 0, 1]
    shuffled = AttentionGuidance(backbone.network, negatives.select(torch.tensor(order)), settings)
    torch.testing.assert_close(
        drawn(backbone, encoder, shuffled, order), together[order], rtol=1e-3, atol=1e-4
    )
    alone = AttentionGuidance(backbone.network, negatives[slice(1, 2)], settings)
    torch.testing.assert_close(drawn(backbone, encoder, alone, [1]), together[1:2], rtol=1e-3, atol=1e-4)
    if negatives.mask is not None:
        garbage = torch.where(negatives.mask.bool()[..., None], negatives.embeddings, torch.tensor(7.0))
        padded = AttentionGuidance(backbone.network, Conditioning(garbage, negatives.mask), settings)
        assert torch.equal(drawn(backbone, encoder, padded, [0, 1, 2]), together)


def test_shared_negative_and_smaller_batches(
    student: tuple[Backbone, TextEncoder],
) -> None:
    backbone, encoder = student
    negative, settings = encoder.encode(NEGATIVES[:1]), first_kernel(backbone)
    noise = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = encoder.encode(PROMPTS)
    latents = [
        generate(backbone, backbone.network, noise, prompts, guidance, batch)
        for guidance, batch in (
            (AttentionGuidance(backbone.network, negative, settings), 3),
            (AttentionGuidance(backbone.network, negative, settings), 2),
            (AttentionGuidance(backbone.network, negative.select(torch.zeros(3).long()), settings), 2),
        )
    ]
    for other in latents[1:]:
        torch.testing.assert_close(other, latents[0], rtol=1e-3, atol=1e-4)


def test_strength_change_does_not_recompile(student: tuple[Backbone, TextEncoder]) -> None:
    backbone, encoder = student
    compiled: list[int] = []

    def count(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    torch._dynamo.reset()
    network = torch.compile(backbone.network, backend=count)
    negative = encoder.encode(NEGATIVES)
    guidance = AttentionGuidance(backbone.network, negative, first_kernel(backbone))
    noise = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    prompts = encoder.encode(PROMPTS)
    with torch.no_grad(), guidance:
        first = backbone.one_step(network, noise, prompts)
        graphs = len(compiled)
        guidance.state.strength.fill_(0.1)
        second = backbone.one_step(network, noise, prompts)
    assert len(compiled) == graphs > 0
    assert not torch.equal(first, second)


def test_qk_norm_applies_to_both_branches() -> None:
    """With QK-norm and negative = prompt, the guided result is (1 - alpha) times the plain one."""
    layer = Attention(16, cross_attention_dim=8, heads=2, dim_head=8, qk_norm="layer_norm")
    network = nn.Module()
    network.attn2 = layer
    generator = torch.Generator().manual_seed(0)
    hidden, context = (torch.randn(2, n, w, generator=generator) for n, w in ((5, 16), (3, 8)))
    with torch.no_grad():
        layer.to_out[0].bias.zero_()
        plain = layer(hidden, encoder_hidden_states=context)
        with AttentionGuidance(network, Conditioning(context), AttentionGuidanceSettings("nasa", 0.25)):
            guided = layer(hidden, encoder_hidden_states=context)
    torch.testing.assert_close(guided, 0.75 * plain, rtol=1e-4, atol=1e-5)


def test_output_bias_counts_once() -> None:
    positive = torch.randn(2, 3, 4)
    assert torch.equal(nasa(positive, torch.zeros_like(positive), torch.tensor(0.5)), positive)
    torch.testing.assert_close(
        nag(positive, positive, torch.tensor(9.0), 2.5, 0.4), positive, rtol=1e-4, atol=1e-5
    )


def test_saved_student_uses_default_strength(tmp_path: Path) -> None:
    backbone = load_backbone(str(WEIGHTS / "pixart"), start_timestep=400)
    save_student(backbone, new_student(backbone), tmp_path / "student")
    save_defaults(tmp_path / "student", KERNELS[0])
    generator = Generator(tmp_path / "student")
    assert generator.defaults == KERNELS[0]
    default = generator.draw("a circle", [3], "green")
    assert torch.equal(default, generator.draw("a circle", [3], "green", KERNELS[0].strength))
    assert torch.equal(default, Generator(tmp_path / "student").draw("a circle", [3], "green"))
    plain = generator.draw("a circle", [3])
    assert torch.equal(plain, generator.draw("a circle", [3], "green", 0.0))
    assert not torch.equal(plain, default)


def test_folder_with_default_opens_in_diffusers(tmp_path: Path) -> None:
    backbone = load_backbone(str(WEIGHTS / "unet-v"), start_timestep=500)
    save_student(backbone, new_student(backbone), tmp_path / "student")
    save_defaults(tmp_path / "student", KERNELS[0])
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "student")).__name__ == "StableDiffusionPipeline"


def test_no_cross_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="no cross-attention that can be guided"):
        AttentionGuidance(nn.Linear(2, 2), Conditioning(torch.zeros(1, 1, 2)), KERNELS[0])


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "nasa", "strength": -1.0},
        {"kind": "nasa", "strength": 0.5, "clip": 1.0},
        {"kind": "vsf", "strength": 0.5, "blend": 1.0},
        {"kind": "vsf", "strength": -0.5},
        {"kind": "none", "strength": 0.5},
        {"kind": "nag", "strength": 0.5, "blend": 0.0},
    ],
)
def test_ignored_settings_are_errors(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"strength|blend"):
        AttentionGuidanceSettings(**values)
