"""Terms of a loss: weights, own updates, and lent networks that keep no gradient."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.workloads.objectives.test_pgsb import Bench
from workloads.objectives.base import STUDENT, Auxiliary, Update
from workloads.objectives.batch import Batch
from workloads.objectives.terms import NoDraws, Term, TermInputs, WithTerms, frozen
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.training.step import PlainEngine

CRITIC = "critic"


class Criticism(Term[NoDraws]):
    """A linear critic of the latents, which the term trains to give 1; the student is to make it give 0."""

    name = "criticism"

    def __init__(self, size: int, every: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.critic, self.every = nn.Linear(size, 1).double(), every
        self.auxiliary = {CRITIC: Auxiliary(self.critic, 0.1, (0.0, 0.9))}
        self.columns = {"given": 2}

    def weight(self, step: int) -> float:
        return 0.0 if step % self.every else 0.5

    def loss(self, latents: Tensor, inputs: TermInputs[NoDraws]) -> Tensor:
        value: Tensor = inputs.networks[CRITIC](latents.flatten(1)).square().mean()
        return value

    def updates(self, latents: Tensor, inputs: TermInputs[NoDraws]) -> Iterator[Update]:
        assert not latents.requires_grad
        yield Update(CRITIC, (inputs.networks[CRITIC](latents.flatten(1)) - 1).square().mean())


@pytest.fixture
def bench() -> Bench:
    return Bench("epsilon")


def test_lent_networks_keep_no_gradient(bench: Bench) -> None:
    """After the student's backward pass the critic has none, and its own update is of its own loss alone."""
    term = Criticism(bench.backbone.latent_shape[0] * bench.backbone.latent_shape[1] ** 2)
    objective, critic = WithTerms(bench.objective, [term]), term.critic
    networks = {STUDENT: bench.student, "fake_score": bench.fake_score, CRITIC: critic}
    generator = torch.Generator().manual_seed(0)
    draws = objective.draw(len(bench.prompts), generator)
    draws = replace(draws, objective=bench.draws)
    updates = objective.updates(networks, Batch(bench.prompts), draws, 1)
    first = next(updates)
    assert first.network == STUDENT and not any(p.requires_grad for p in critic.parameters())
    first.loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in critic.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in bench.student.parameters())
    of_critic = next(updates)
    assert of_critic.network == CRITIC and all(p.requires_grad for p in critic.parameters())
    of_critic.loss.backward()  # type: ignore[no-untyped-call]
    assert critic.weight.grad is not None and critic.weight.grad.abs().max() > 0
    assert [update.network for update in updates] == ["fake_score"]


def test_weights_and_metrics(bench: Bench) -> None:
    """The weighted term is added; at steps without it the last value is recorded."""
    term = Criticism(bench.backbone.latent_shape[0] * bench.backbone.latent_shape[1] ** 2, every=2)
    objective = WithTerms(bench.objective, [term])
    assert objective.metric_names == (*bench.objective.metric_names, "criticism", "critic_loss")
    assert objective.columns == {"given": 2} and set(objective.auxiliary) == {"fake_score", CRITIC}
    networks = {STUDENT: bench.student, "fake_score": bench.fake_score, CRITIC: term.critic}
    draws = replace(objective.draw(3, torch.Generator().manual_seed(0)), objective=bench.draws)

    def student_update(step: int) -> Update:
        return next(objective.updates(networks, Batch(bench.prompts), draws, step))

    plain = next(bench.objective.updates(networks, Batch(bench.prompts), bench.draws, 1))
    assert student_update(1).metrics["criticism"] == 0
    second = student_update(2)
    torch.testing.assert_close(second.loss, plain.loss + 0.5 * second.metrics["criticism"])
    assert second.metrics["criticism"] > 0
    assert student_update(3).metrics["criticism"] == second.metrics["criticism"]
    torch.testing.assert_close(student_update(3).loss, plain.loss)


def test_engines_are_lent_too() -> None:
    """The network in an engine is frozen within the block; what was frozen before stays frozen after it."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    engine = PlainEngine(module, 0.1, PGSBSettings(), (0.0, 0.5))
    assert engine.optimizer.param_groups[0]["betas"] == (0.0, 0.5)
    with pytest.raises(KeyError), frozen(engine):
        assert not any(p.requires_grad for p in module.parameters())
        raise KeyError
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]
