"""Guided joint attention against two-stream forwards in float64, and its invariants."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workloads.attention.joint_networks import LENGTHS, TOYS, Toy, row, texts
from workloads.attention import AttentionGuidance
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.settings.train import AttentionGuidanceSettings

NAG = AttentionGuidanceSettings("nag", 3.0)
VSF = AttentionGuidanceSettings("vsf", 1.5)
KERNELS = [NAG, AttentionGuidanceSettings("nag", 0.75, clip=0, blend=1), VSF]
LATENTS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
TIMES = torch.tensor([1.0, 0.6, 0.2])


@pytest.fixture(params=TOYS)
def toy(request: pytest.FixtureRequest) -> Toy:
    return TOYS[request.param]()


def masked(toy: Toy) -> bool:
    """Whether the prompts of a family are of different lengths."""
    return toy.name == "z-image"


@torch.no_grad()
def run(toy: Toy, prompts: Conditioning, latents: Tensor = LATENTS, times: Tensor = TIMES) -> Tensor:
    dtype = next(toy.network.parameters()).dtype
    return toy.call(toy.network, latents.to(dtype), times[: len(latents)].to(dtype), prompts)


@torch.no_grad()
def guide(toy: Toy, negative: Conditioning, settings: AttentionGuidanceSettings, **given: Any) -> Tensor:
    with AttentionGuidance(toy.network, negative, settings):
        return run(toy, **given)


@pytest.mark.parametrize("settings", [None, *KERNELS], ids=lambda s: s.label if s else "plain")
@pytest.mark.parametrize("shared", [True, False], ids=["one negative", "one each"])
@pytest.mark.parametrize("padding", [True, False], ids=["padded", "full"])
def test_network_matches_two_streams_in_float64(
    toy: Toy, settings: AttentionGuidanceSettings | None, shared: bool, padding: bool
) -> None:
    toy.network.double()
    prompts, negatives = texts(1, mask=masked(toy)), texts(2, rows=1 if shared else 3, mask=padding)
    seen = run(toy, prompts) if settings is None else guide(toy, negatives, settings, prompts=prompts)
    with torch.no_grad():
        expected = torch.stack(
            [
                toy.reference(
                    toy.network,
                    LATENTS[index].double(),
                    TIMES[index].double(),
                    row(prompts, index),
                    None if settings is None else row(negatives, index),
                    settings,
                )
                for index in range(3)
            ]
        )
    tolerance = 1e-10 if toy.exact else 2e-5
    torch.testing.assert_close(seen, expected, rtol=tolerance, atol=tolerance)


def test_negative_equal_to_prompt_changes_nothing_under_nag(toy: Toy) -> None:
    prompts = texts(1, mask=masked(toy))
    torch.testing.assert_close(
        guide(toy, prompts, NAG, prompts=prompts), run(toy, prompts), rtol=1e-4, atol=1e-5
    )


def test_strength_zero_is_the_plain_network(toy: Toy) -> None:
    prompts, negatives = texts(1, mask=masked(toy)), texts(2)
    plain = run(toy, prompts)
    before = {name: getattr(module, "processor", None) for name, module in toy.network.named_modules()}
    for kind in ("nag", "vsf", "nasa"):
        with AttentionGuidance(toy.network, negatives, AttentionGuidanceSettings(kind, 0.0)):
            after = {name: getattr(module, "processor", None) for name, module in toy.network.named_modules()}
            assert after == before and not any(module._forward_pre_hooks for module in toy.network.modules())
            assert torch.equal(run(toy, prompts), plain)


def test_vsf_jumps_at_strength_zero(toy: Toy) -> None:
    prompts = texts(1, mask=masked(toy))
    barely = guide(toy, texts(2), AttentionGuidanceSettings("vsf", 1e-9), prompts=prompts)
    assert (barely - run(toy, prompts)).abs().max() > 1e-3


@pytest.mark.parametrize("settings", KERNELS, ids=lambda s: s.label)
def test_guidance_is_removed_after_use(toy: Toy, settings: AttentionGuidanceSettings) -> None:
    prompts = texts(1, mask=masked(toy))
    plain = run(toy, prompts)
    guidance = AttentionGuidance(toy.network, texts(2), settings)
    with guidance:
        first = run(toy, prompts)
    assert (first - plain).abs().max() > 1e-3
    assert torch.equal(run(toy, prompts), plain)
    with pytest.raises(RuntimeError, match="stop"), guidance:
        raise RuntimeError("stop")
    assert torch.equal(run(toy, prompts), plain)
    with guidance:
        assert torch.equal(run(toy, prompts), first)


@pytest.mark.parametrize("settings", KERNELS, ids=lambda s: s.label)
@pytest.mark.parametrize("padding", [True, False], ids=["padded", "full"])
def test_rows_are_independent(toy: Toy, settings: AttentionGuidanceSettings, padding: bool) -> None:
    """Negatives of their own, in slices of the batch, equal single calls; padding has no effect."""
    prompts, negatives = texts(1, mask=masked(toy)), texts(2, mask=padding)
    together = guide(toy, negatives, settings, prompts=prompts)
    guidance = AttentionGuidance(toy.network, negatives, settings)
    parts = []
    for rows in (slice(0, 2), slice(2, 3)):
        guidance.state.rows = rows
        with guidance:
            parts.append(run(toy, prompts[rows], LATENTS[rows], TIMES[rows]))
    torch.testing.assert_close(torch.cat(parts), together, rtol=1e-4, atol=1e-5)
    for index in range(3):
        own = slice(index, index + 1)
        length = LENGTHS[index] if padding else negatives.embeddings.shape[1]
        short = Conditioning(negatives.embeddings[own, :length], None, negatives.parts["pooled"][own])
        given = {"prompts": prompts[own], "latents": LATENTS[own], "times": TIMES[own]}
        alone = guide(toy, short, settings, **given)
        torch.testing.assert_close(alone, together[own], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [NAG, VSF], ids=lambda s: s.label)
def test_strength_per_sample(toy: Toy, settings: AttentionGuidanceSettings) -> None:
    prompts, negatives, strengths = texts(1, mask=masked(toy)), texts(2), [0.5, 2.0, 4.0]
    with torch.no_grad(), AttentionGuidance(toy.network, negatives, settings, torch.tensor(strengths)):
        seen = run(toy, prompts)
    for index, strength in enumerate(strengths):
        alone = guide(toy, negatives, AttentionGuidanceSettings(settings.kind, strength), prompts=prompts)
        torch.testing.assert_close(seen[index], alone[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [NAG, VSF], ids=lambda s: s.label)
def test_gradients_with_and_without_checkpointing(toy: Toy, settings: AttentionGuidanceSettings) -> None:
    """Gradients reach the network through both texts, and recomputed activations give the same ones."""
    prompts, negatives, gradients = texts(1, mask=masked(toy)), texts(2), []
    for checkpointing in (False, True):
        if checkpointing:
            toy.network.train().enable_gradient_checkpointing()
        toy.network.zero_grad()
        with AttentionGuidance(toy.network, negatives, settings):
            loss = toy.call(toy.network, LATENTS, TIMES, prompts).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in toy.network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", [NAG, VSF], ids=lambda s: s.label)
def test_bfloat16(toy: Toy, settings: AttentionGuidanceSettings) -> None:
    prompts, negatives = texts(1, mask=masked(toy)), texts(2)
    expected = guide(toy, negatives, settings, prompts=prompts)
    toy.network.bfloat16()
    seen = guide(toy, negatives, settings, prompts=prompts)
    assert seen.dtype == torch.bfloat16
    assert (seen - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize("name", ["sd3.5", "flux2", "z-image"])
def test_blocks_may_be_compiled(name: str) -> None:
    """Compiled blocks are guided and plain again afterwards; a new strength compiles nothing."""
    toy, graphs = TOYS[name](), []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    prompts, negatives = texts(1, mask=masked(toy)), texts(2)
    plain, expected = run(toy, prompts), guide(toy, negatives, NAG, prompts=prompts)
    torch._dynamo.reset()
    for module in toy.network.modules():
        if type(module).__name__.endswith("TransformerBlock"):
            module.compile(backend=count, dynamic=False, recompile_limit=64)
    torch.testing.assert_close(run(toy, prompts), plain)
    guidance = AttentionGuidance(toy.network, negatives, NAG)
    with guidance:
        torch.testing.assert_close(run(toy, prompts), expected)
        compiled = len(graphs)
        guidance.state.strength.fill_(0.1)
        assert not torch.equal(run(toy, prompts), expected)
    assert len(graphs) == compiled > 0
    torch.testing.assert_close(run(toy, prompts), plain)


def test_nasa_is_refused(toy: Toy) -> None:
    with pytest.raises(ValueError, match=r"NASA is not defined for joint attention.*nag or vsf"):
        AttentionGuidance(toy.network, texts(2), AttentionGuidanceSettings("nasa", 1.0))


@pytest.mark.parametrize("name", ["sd3.5", "flux2"])
def test_longer_negative_is_refused(name: str) -> None:
    toy = TOYS[name]()
    with pytest.raises(ValueError, match="the negative prompt has 40 tokens, the prompt 36"):
        guide(toy, texts(2, tokens=40), NAG, prompts=texts(1))


def test_missing_pooled_embeddings_are_refused() -> None:
    toy = TOYS["sd3.5"]()
    with pytest.raises(ValueError, match="no pooled embeddings"):
        guide(toy, Conditioning(texts(2).embeddings), NAG, prompts=texts(1))
