"""PG-SB of students of several steps against an independent float64 derivation, for each prediction type.

The derivation draws the student's own steps by hand, without gradient, up to the one that is trained.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.schedules import PREDICTIONS
from tests.workloads.objectives.test_pgsb import BATCH, Bench, ReferenceNasa
from workloads.attention import nasa_guidance
from workloads.backbones.noise_schedule import NoiseSchedule, Prediction
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.objectives.base import SPREAD, STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.pgsb import FAKE_SCORE
from workloads.training.step import train_step

TIMESTEPS = {2: [699, 349], 4: [699, 524, 349, 174]}
TIMES = {2: [1.0, 0.5], 4: [1.0, 0.75, 0.5, 0.25]}


class StepsBench(Bench):
    """A bench whose student has several steps, with its noise levels written out."""

    def __init__(self, prediction: Prediction, steps: int, **settings: Any) -> None:
        super().__init__(prediction, student_steps=steps, **settings)
        if self.by_hand.flow:
            t = torch.tensor(TIMES[steps], dtype=torch.float64)
            self.alpha, self.sigma, self.shown = 1 - t, t, 1000 * t
        else:
            at = TIMESTEPS[steps]
            self.alpha, self.sigma = self.by_hand.a[at], self.by_hand.s[at]
            self.shown = torch.tensor(at)
        rungs = NoiseSchedule(self.alpha, self.sigma, self.shown, prediction)
        self.backbone = self.objective.backbone = replace(self.backbone, rungs=rungs)
        torch.set_default_dtype(torch.float64)
        self.draws = self.objective.draw(BATCH, torch.Generator().manual_seed(3))
        torch.set_default_dtype(torch.float32)

    def predicted(self, x: Tensor, rung: int) -> Tensor:
        """Return x_0 of the student at a noise level, by the definition of its prediction."""
        a, s = self.alpha[rung], self.sigma[rung]
        out: Tensor = self.student(x, self.shown[rung].expand(BATCH), self.prompts.embeddings).sample
        by = {
            "epsilon": lambda: (x - s * out) / a,
            "v_prediction": lambda: a * x - s * out,
            "sample": lambda: out,
            "flow_prediction": lambda: x - s * out,
        }
        return by[self.by_hand.prediction]()

    def drawn(self, rung: int) -> tuple[Tensor, list[Tensor]]:
        """Return x_0 of the trained level with gradient, and those before it."""
        x, before = self.draws.start_noise, []
        with torch.no_grad():
            for each in range(rung):
                before.append(self.predicted(x, each))
                x = self.alpha[each + 1] * before[-1] + self.sigma[each + 1] * self.draws.renoise[:, each]
        return self.predicted(x, rung), before

    def gradient(self, x0: Tensor) -> Tensor:
        """Return sigma^2 (e_teacher - e_fake) at the drawn timestep, unguided fake score."""
        draws, k = self.draws, self.draws.scale[:, None, None, None]
        a, s = (table[draws.timestep][:, None, None, None] for table in (self.by_hand.a, self.by_hand.s))
        xt, null = (a * x0 + s * draws.noise).detach(), self.null.embeddings.expand(BATCH, -1, -1)

        def score(network: nn.Module, text: Tensor) -> Tensor:
            return self.epsilon(network, xt, draws.timestep, text)

        with torch.no_grad():
            real = (1 - k) * score(self.teacher, null) + k * score(self.teacher, self.prompts.embeddings)
            return s**2 * (real - score(self.merged(), self.prompts.embeddings))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "rung"), [(2, 0), (2, 1), (4, 1), (4, 3)])
def test_student_gradient(prediction: Prediction, steps: int, rung: int) -> None:
    bench = StepsBench(prediction, steps, guided="teacher")
    outcome = bench.objective.student_loss(bench.student, bench.prompts, bench.draws, rung=rung)
    ours = torch.autograd.grad(outcome.loss, list(bench.student.parameters()))
    x0, before = bench.drawn(rung)
    torch.testing.assert_close(outcome.latents, x0, rtol=1e-10, atol=1e-12)
    if rung:
        assert outcome.from_noise is not None
        torch.testing.assert_close(outcome.from_noise, before[0], rtol=1e-10, atol=1e-12)
    else:
        assert outcome.from_noise is None
    gradient = bench.gradient(x0)
    expected = torch.autograd.grad((gradient * x0).sum() / x0.numel(), list(bench.student.parameters()))
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    assert any(want.abs().max() > 1e-6 for want in expected)


@pytest.mark.parametrize("prediction", ["epsilon", "flow_prediction"])
def test_nasa_guides_every_call_of_the_student(prediction: Prediction) -> None:
    bench = StepsBench(prediction, 4, guided="teacher", nasa_interval=(0.2, 0.9))
    negatives = Conditioning(torch.randn(BATCH, 3, 6, dtype=torch.float64))
    guidance = nasa_guidance(bench.student, negatives, bench.draws.strength)
    given = (bench.student, bench.prompts, bench.draws, negatives, guidance)
    outcome = bench.objective.student_loss(*given, rung=2)
    plain = dict(bench.student.attn_processors)
    by_hand = {
        k: ReferenceNasa(negatives.embeddings, bench.draws.strength) if "attn2" in k else p
        for k, p in plain.items()
    }
    unguided, _ = bench.drawn(2)
    bench.student.set_attn_processor(by_hand)
    guided, _ = bench.drawn(2)
    torch.testing.assert_close(outcome.latents, guided, rtol=1e-10, atol=1e-12)
    assert (guided - unguided).abs().max() > 1e-3


class Kept:
    """An engine that updates nothing and keeps the calls with gradient."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.calls = module, list[bool]()

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls.append(torch.is_grad_enabled())
        return self.module(*args, **kwargs)

    def step(self, loss: Tensor) -> None:
        assert loss.isfinite()

    @property
    def weights(self) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_steps_are_trained_in_turn(prediction: Prediction) -> None:
    """One call of a step has a gradient; the fake score learns from its x_0; spread is the first's."""
    bench = StepsBench(prediction, 4, guided="teacher")
    names = bench.objective.metric_names
    for step in range(1, 7):
        rung = (step - 1) % 4
        engines = {STUDENT: Kept(bench.student), FAKE_SCORE: Kept(bench.fake_score)}
        metrics = train_step(bench.objective, engines, Batch(bench.prompts), bench.draws, step)
        assert engines[STUDENT].calls == [False] * rung + [True]
        x0, before = bench.drawn(rung)
        fake = bench.objective.fake_score_loss(
            bench.fake_score, x0.detach(), bench.prompts, bench.draws.fake_score[0]
        )
        torch.testing.assert_close(metrics[names.index("fake_score_loss")], fake.detach().float())
        spread = [x0, *before][-1 if rung == 0 else 1].detach().std(dim=0, correction=0).mean()
        torch.testing.assert_close(metrics[names.index(SPREAD)], spread.float())


def test_further_noise_changes_no_other_number() -> None:
    one, four = Bench("epsilon"), StepsBench("epsilon", 4)
    for name in ("start_noise", "timestep", "noise", "scale", "fake_score_scale"):
        assert torch.equal(getattr(one.draws, name), getattr(four.draws, name))
    assert torch.equal(one.draws.fake_score[0].noise, four.draws.fake_score[0].noise)
    assert one.draws.renoise.shape[1] == 0 and four.draws.renoise.shape[:2] == (BATCH, 3)
    part = four.draws[slice(1, 3)]
    assert torch.equal(part.renoise, four.draws.renoise[1:3])
