"""Diffusion2GAN's discriminator: what it reads, its losses by hand, no gradient of the student in it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.world import captions
from workloads.objectives.adversarial import DISCRIMINATOR, Adversarial, AdversarialDraws
from workloads.objectives.batch import Batch
from workloads.objectives.columns import TEACHER_LATENTS
from workloads.objectives.discriminator import Discriminator, read_blocks
from workloads.objectives.pairs import NOISE
from workloads.objectives.terms import TermInputs, frozen
from workloads.settings.objectives.terms import AdversarialSettings

ROWS = 3


def opened(name: str = "unet-v") -> Backbone:
    """A miniature teacher in float64."""
    backbone = load_backbone(str(WEIGHTS / name), dtype=torch.float32)
    backbone.network.double()
    tables = {key: getattr(backbone.schedule, key).double() for key in ("alpha", "sigma")}
    return replace(backbone, schedule=replace(backbone.schedule, **tables))


def inputs(
    backbone: Backbone, term: Adversarial, step: int = 1, mixed: tuple[int, ...] = ()
) -> TermInputs[Any]:
    generator = torch.Generator().manual_seed(1)
    shape = (ROWS, *backbone.latent_shape)
    columns = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator).flatten(1)
        for name in (NOISE, TEACHER_LATENTS)
    }
    prompts = TextEncoder(backbone.source).encode(captions(ROWS, 4)).to(torch.device("cpu"), torch.float64)
    draws = AdversarialDraws(torch.tensor([row in mixed for row in range(ROWS)]))
    networks = {DISCRIMINATOR: term.auxiliary[DISCRIMINATOR].module}
    return TermInputs(networks, Batch(prompts, columns=columns), draws, step)


def columns(given: TermInputs[Any], backbone: Backbone) -> tuple[Tensor, Tensor, Conditioning]:
    shape, stored = (ROWS, *backbone.latent_shape), given.batch.columns
    real, noise = (stored[name].view(shape) for name in (TEACHER_LATENTS, NOISE))
    return real, noise, given.batch.prompts


def latents(backbone: Backbone) -> Tensor:
    return torch.randn(
        ROWS, *backbone.latent_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def woken(backbone: Backbone, **settings: Any) -> Adversarial:
    """A term whose discriminator reads the noise, as it does after some steps."""
    torch.manual_seed(5)
    term = Adversarial(backbone, AdversarialSettings(**settings))
    layer = term.auxiliary[DISCRIMINATOR].module.noise_layer
    if isinstance(layer, torch.nn.Module):
        torch.nn.init.normal_(layer.weight, std=0.3)  # type: ignore[arg-type]
    return term


@pytest.mark.parametrize("name", TEACHERS)
def test_reads_latents_noise_and_prompt_of_its_own_row(name: str) -> None:
    """A change of one row's input changes that row's logits alone; every trained parameter has a gradient."""
    backbone = opened(name)
    term = woken(backbone)
    network: Any = term.auxiliary[DISCRIMINATOR].module
    real, noise, prompts = columns(inputs(backbone, term), backbone)
    logits = network(real, noise, prompts)
    assert logits.shape[0] == ROWS and logits.shape[1] >= 3 * 4
    swapped = prompts.select(torch.tensor([1, 1, 2]))
    for changed in (
        network(torch.cat([real[:1] + 0.1, real[1:]]), noise, prompts),
        network(real, torch.cat([noise[:1] + 0.1, noise[1:]]), prompts),
        network(real, noise, swapped),
    ):
        moved = (changed - logits).abs().amax(1)
        assert moved[0] > 1e-6 and moved[1:].max() < 1e-6
    network(real, noise, prompts).square().sum().backward()
    silent = [
        n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # Of the last block of joint attention the text's half is not read, nor biases before a softmax or a mean.
    assert len(silent) <= 0.1 * len(list(network.parameters())), silent
    assert backbone.network is not network.network
    assert not any(p.requires_grad for p in backbone.network.parameters())


def test_starts_as_the_teacher_without_noise() -> None:
    backbone = opened()
    network = Discriminator(backbone)
    real, noise, prompts = columns(inputs(backbone, woken(backbone)), backbone)
    assert torch.equal(network(real, noise, prompts), network(real, 2 * noise, prompts))
    blocks = [name for name, _ in read_blocks(backbone)]
    seen: list[Tensor] = []
    handle = backbone.network.get_submodule(blocks[0]).register_forward_hook(
        lambda *given: seen.append(given[2])
    )
    mine: list[Tensor] = []
    network.network.get_submodule(blocks[0]).register_forward_hook(lambda *given: mine.append(given[2]))
    backbone.predict(backbone.network, real, torch.zeros(ROWS, dtype=torch.long), prompts)
    handle.remove()
    network(real, noise, prompts)
    torch.testing.assert_close(seen[0], mine[0])


def test_losses_by_hand() -> None:
    """The student's loss, the discriminator's on real and mixed pictures, and R1 by finite differences."""
    backbone = opened()
    term = woken(backbone, gradient_penalty=0.8, penalty_every=4)
    given = inputs(backbone, term, step=5, mixed=(1,))
    network: Any = given.networks[DISCRIMINATOR]
    real, noise, prompts = columns(given, backbone)
    fake = latents(backbone)
    logits = [network(fake[[row]], noise[[row]], prompts[row : row + 1]) for row in range(ROWS)]
    by_hand = torch.stack([torch.log1p(torch.exp(-one)).mean() for one in logits]).mean()
    torch.testing.assert_close(term.loss(fake, given), by_hand, rtol=1e-6, atol=0)

    penalty, own = term.updates(fake, given)
    of_real = network(real, noise, prompts)
    # The second sample's picture is the one before it in the rows, with its own noise and prompt.
    false = torch.stack([fake[0], real[0], fake[2]])
    of_false = network(false, noise, prompts)
    expected = torch.log1p(torch.exp(-of_real)).mean() + torch.log1p(torch.exp(of_false)).mean()
    torch.testing.assert_close(own.loss, expected, rtol=1e-6, atol=0)

    def score(x: Tensor) -> Tensor:
        found: Tensor = network(x, noise[:1], prompts[:1]).mean()
        return found

    squares = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for place in range(real[0].numel()):
            nudge = torch.zeros_like(real[0]).flatten()
            nudge[place] = 1e-3
            nudge = nudge.view_as(real[:1])
            squares += ((score(real[:1] + nudge) - score(real[:1] - nudge)) / 2e-3).square()
    torch.testing.assert_close(penalty.loss, 0.8 / 2 * 4 * squares, rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(penalty.loss, network.heads[0][1].weight)
    assert gradient.abs().max() > 0


def test_penalty_has_its_interval() -> None:
    backbone = opened()
    term = woken(backbone, penalty_every=4)
    counts = [
        len(list(term.updates(latents(backbone), inputs(backbone, term, step)))) for step in range(1, 10)
    ]
    assert counts == [2, 1, 1, 1, 2, 1, 1, 1, 2]
    off = woken(backbone, gradient_penalty=0.0)
    assert len(list(off.updates(latents(backbone), inputs(backbone, off)))) == 1


def test_student_leaves_no_gradient_in_the_discriminator() -> None:
    backbone = opened()
    term = woken(backbone)
    given, fake = inputs(backbone, term), latents(backbone).requires_grad_()
    module = term.auxiliary[DISCRIMINATOR].module
    with frozen(module):
        term.loss(fake, given).backward()  # type: ignore[no-untyped-call]
    assert fake.grad is not None and fake.grad.abs().max() > 0
    assert all(p.grad is None for p in module.parameters())


def test_only_pictures_are_mixed() -> None:
    """Without mixing, the false pictures are the student's; with all mixed, none is."""
    backbone = opened()
    term = woken(backbone, gradient_penalty=0.0)
    fake = latents(backbone)
    losses = [
        next(term.updates(other, inputs(backbone, term, mixed=rows))).loss.item()
        for rows in ((), (0, 1, 2))
        for other in (fake, fake + 1)
    ]
    assert losses[0] != losses[1] and losses[2] == losses[3]


def test_families_without_readable_blocks_are_refused() -> None:
    backbone = opened("sd3")
    backbone.network.single_transformer_blocks = torch.nn.ModuleList()
    with pytest.raises(
        ValueError, match="adversarial is not defined for SD3Transformer2DModel: leave it out"
    ):
        Discriminator(backbone)
