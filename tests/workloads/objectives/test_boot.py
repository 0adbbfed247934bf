"""BOOT against an independent float64 re-derivation, for each prediction type.

The objective takes a step of the Signal-ODE. The derivation takes the DDIM step itself on the noisy
latents: to epsilon and x_0, to the next noisy latents, and only then to their signal.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.schedules import PREDICTIONS, ByHand
from tests.workloads.objectives.test_pgsb import BATCH, conditioned, stock_features, tiny_unet
from workloads.backbones.backbone import Backbone
from workloads.backbones.families import FAMILIES
from workloads.backbones.noise_schedule import Prediction
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.guidance_input import GuidanceConditioned, GuidanceEmbedding, unet_features_used
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.boot import BOOT, BootDraws
from workloads.settings.objectives.boot import BootSettings

START, T_MIN, T_MAX, STRIDE = 700, 20, 980, 50


class Bench:
    """A teacher, a student with other weights, and a batch with one guidance scale per sample."""

    def __init__(self, prediction: Prediction, guidance_input: bool = False, **settings: Any) -> None:
        self.teacher, self.student = tiny_unet(0).requires_grad_(False).eval(), tiny_unet(1)
        self.by_hand = ByHand(prediction)
        self.start = 999 if self.by_hand.flow else START
        schedule = self.by_hand.schedule()
        self.backbone = Backbone("tiny", FAMILIES[0], self.teacher, schedule, self.start)
        torch.manual_seed(2)
        self.prompts = Conditioning(torch.randn(BATCH, 3, 6, dtype=torch.float64))
        self.null = Conditioning(torch.randn(1, 3, 6, dtype=torch.float64))
        self.settings = BootSettings(
            guidance_interval=(1.0, 5.0),
            guidance_input=guidance_input,
            step_size=0.05,
            boundary_weight=0.3,
            **settings,
        )
        self.objective = BOOT(self.backbone, self.null, self.settings)
        noise = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64)
        # The last is less than one step from the start of the trajectory.
        timestep = torch.tensor([20, 333, 700, 960])
        self.draws = BootDraws(noise, timestep, torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64))
        self.by_hand_student: Any = lambda row: self.student
        self.trained: Any = self.student
        if guidance_input:
            self._read_scales()

    def _read_scales(self) -> None:
        """Let the student read its scale; by hand it is diffusers' own network that does."""
        self.trained = GuidanceConditioned(self.student, GuidanceEmbedding.of(self.student, 5**0.5)).double()
        nn.init.normal_(self.trained.embedding.projection.weight, std=0.2)
        whole, embed = conditioned(self.student, self.trained.embedding), stock_features
        given = embed(self.draws.scale) - embed(torch.full((BATCH,), 5**0.5, dtype=torch.float64))
        self.by_hand_student = lambda row: partial(whole, timestep_cond=given[[row]])
        self.student = whole

    def pair(self, network: nn.Module, x: Tensor, t: int, shown: int, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_0 and epsilon of one sample; the network sees the timestep `shown`."""
        out: Tensor = network(x[None], self.by_hand.shown[[shown]], text[None]).sample
        x0, epsilon = self.by_hand.both(out, x[None], torch.tensor([t]))
        return x0[0], epsilon[0]

    def signal(self, row: int, t: int) -> Tensor:
        """Return the student's signal; it sees the start timestep at T_MIN, the clock's first at T_MAX."""
        default = 0.0 if self.by_hand.prediction == "epsilon" else 1.0
        share = default if self.settings.clock_from is None else self.settings.clock_from
        first = share * T_MAX
        shown = round(first + (self.start - first) * (T_MAX - t) / (T_MAX - T_MIN))
        text = self.prompts.embeddings[row]
        at = max(self.start, shown)
        return self.pair(self.by_hand_student(row), self.draws.noise[row], at, shown, text)[0]

    def guided(self, row: int, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return the teacher's guided x_0 and epsilon."""
        k = self.draws.scale[row]
        conditional = self.pair(self.teacher, x, t, t, self.prompts.embeddings[row])
        unconditional = self.pair(self.teacher, x, t, t, self.null.embeddings[0])
        return tuple((1 - k) * u + k * c for u, c in zip(unconditional, conditional, strict=True))  # type: ignore[return-value]

    def expected(self) -> tuple[Tensor, Tensor]:
        """Compute both losses sample by sample."""
        bootstrap, boundary = [], []
        for row, s in enumerate(self.draws.timestep.tolist()):
            z, t = self.draws.noise[row], min(s + STRIDE, T_MAX)
            (a_t, a_s), (s_t, s_s) = self.by_hand.a[[t, s]], self.by_hand.s[[t, s]]
            with torch.no_grad():
                noisy = a_t * self.signal(row, t) + s_t * z
                x0, epsilon = self.guided(row, noisy, t)
                if self.settings.solver == "midpoint":
                    m = (s + t) // 2
                    a_m, s_m = self.by_hand.a[m], self.by_hand.s[m]
                    x0 = self.guided(row, a_m * x0 + s_m * epsilon, m)[0]
                    # The noise that leads from x_t to this x_0.
                    epsilon = (noisy - a_t * x0) / s_t
                target = (a_s * x0 + s_s * epsilon - s_s * z) / a_s
                first = self.guided(row, z, T_MAX)[0]
            error = (self.signal(row, s) - target).square().mean()
            # The share of the new picture in the step; the last stride is of 20 timesteps, not 50.
            share = (
                1 - (s_s / a_s) / (s_t / a_t)
                if self.settings.trajectory_weighting == "picture"
                else (t - s) / 1000
            )
            bootstrap.append(error / share**2)
            boundary.append((self.signal(row, T_MAX) - first).square().mean())
        return torch.stack(bootstrap).mean(), torch.stack(boundary).mean()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("guidance_input", "settings"),
    [
        (False, {}),
        (True, {}),
        (False, {"trajectory_weighting": "picture", "clock_from": 0.3}),
        (False, {"solver": "midpoint", "clock_from": 1.0}),
    ],
    ids=str,
)
def test_losses_and_gradient(prediction: Prediction, guidance_input: bool, settings: dict[str, Any]) -> None:
    bench = Bench(prediction, guidance_input, **settings)
    # settings.timestep_range ends before 981.
    assert (bench.objective.t_min, bench.objective.t_max) == (T_MIN, T_MAX)
    networks = {STUDENT: bench.trained}
    (update,) = bench.objective.updates(networks, Batch(bench.prompts), bench.draws, 1)
    bootstrap, boundary = bench.expected()
    torch.testing.assert_close(update.metrics["bootstrap_loss"], bootstrap.detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(update.metrics["boundary_loss"], boundary.detach(), rtol=1e-10, atol=0)
    own = dict(bench.student.named_parameters())
    gradients = torch.autograd.grad(bootstrap + 0.3 * boundary, list(own.values()))
    expected = dict(zip(own, gradients, strict=True))
    trained = {n.removeprefix("network."): p for n, p in bench.trained.named_parameters()}
    ours = dict(zip(trained, torch.autograd.grad(update.loss, list(trained.values())), strict=True))
    if guidance_input:
        ours["time_embedding.cond_proj.weight"] = ours.pop("embedding.projection.weight")
        expected["time_embedding.cond_proj.weight"] *= unet_features_used()
    for name, want in expected.items():
        torch.testing.assert_close(ours[name], want, rtol=1e-9, atol=1e-12)
    assert all(want.abs().max() > 1e-6 for name, want in expected.items() if "cond_proj" in name)
    assert any(want.abs().max() > 1e-6 for want in expected.values())


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_trajectory_ends_at_the_one_step_latents(prediction: Prediction) -> None:
    bench = Bench(prediction)
    end = torch.full((BATCH,), T_MIN)
    ours = bench.objective.signal(bench.student, bench.draws.noise, end, bench.prompts)
    torch.testing.assert_close(ours, bench.backbone.one_step(bench.student, bench.draws.noise, bench.prompts))


def test_worker_draws_are_rows_of_the_global_draws() -> None:
    draws = Bench("epsilon").objective.draw(64, torch.Generator().manual_seed(0))
    part = draws[8:24]
    assert torch.equal(part.noise, draws.noise[8:24]) and torch.equal(part.scale, draws.scale[8:24])
    assert draws.timestep.min() >= T_MIN and draws.timestep.max() < T_MAX
