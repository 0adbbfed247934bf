"""Teacher pairs: the sampler against the closed form for Gaussian data, and the columns of noise."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workloads.backbones.loras.entry import TeacherSource
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.world import captions
from workloads.objectives.columns import TEACHER_LATENTS, NoiseSeeds, TeacherLatents, columns_of
from workloads.objectives.pairs import PairMaker, noise_of, row_seeds
from workloads.objectives.teacher_sampler import TeacherSampler
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.pairs import PairSettings

MEAN, DEVIATION = 0.7, 1.6
"""Of every element of the data."""


class Exact(nn.Module):
    """The best prediction for data of independent normal elements, by a schedule's own tables."""

    def __init__(self, network: Any, alpha: Tensor, sigma: Tensor, prediction: str) -> None:
        super().__init__()
        self.config, self.alpha, self.sigma, self.prediction = network.config, alpha, sigma, prediction
        self.weight = nn.Parameter(torch.zeros(()))

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def forward(self, *given: Any, **named: Any) -> tuple[Tensor]:
        sample, timestep = given[:2] if given else (named["hidden_states"], named["timestep"])
        time = torch.as_tensor(timestep).flatten()[0]
        a, s = self.at(float(time))
        data = (MEAN * s**2 + DEVIATION**2 * a * sample.double()) / (a**2 * DEVIATION**2 + s**2)
        noise = (sample.double() - a * data) / s
        out = {"epsilon": noise, "v_prediction": a * noise - s * data, "flow": noise - data}[self.prediction]
        return (out.to(sample.dtype),)

    def at(self, time: float) -> tuple[Tensor, Tensor]:
        if self.prediction == "flow":
            t = torch.tensor(time / 1000, dtype=torch.float64)
            return 1 - t, t
        return self.alpha[int(time)], self.sigma[int(time)]


def sampler(name: str) -> tuple[TeacherSampler, Exact]:
    """Return a miniature's sampler with the exact network for Gaussian data in the place of its own."""
    found = TeacherSampler(str(WEIGHTS / name))
    network, scheduler = getattr(found.pipeline, found.family.network), found.pipeline.scheduler
    bar = torch.zeros(1) if found.family.flow else scheduler.alphas_cumprod.double()
    prediction = "flow" if found.family.flow else scheduler.config.prediction_type
    exact = Exact(network, bar.sqrt(), (1 - bar).sqrt(), prediction)
    setattr(found.pipeline, found.family.network, exact)
    return found, exact


@pytest.mark.parametrize("name", ["unet-epsilon", "unet-v"])
def test_ddim_steps_are_those_of_gaussian_data(name: str) -> None:
    """Each step is affine: x_s - a_s mu = (a_s d^2 a_t + s_s s_t) / v_t (x_t - a_t mu), v = a^2 d^2 + s^2."""
    found, exact = sampler(name)
    noise = torch.randn(3, *found.latent_shape, generator=torch.Generator().manual_seed(0))
    drawn = found.draw(["a red circle"] * 3, noise, steps=8, guidance_scale=3.0)
    times = [1000 - 125 * step - 1 for step in range(8)]
    x = noise.double()
    for step, time in enumerate(times):
        (a_t, s_t) = exact.at(time)
        last = step == len(times) - 1
        a_s, s_s = (torch.ones(()), torch.zeros(())) if last else exact.at(times[step + 1])
        slope = (a_s * DEVIATION**2 * a_t + s_s * s_t) / (a_t**2 * DEVIATION**2 + s_t**2)
        x = a_s * MEAN + slope * (x - a_t * MEAN)
    torch.testing.assert_close(drawn.double(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unet-v", "sd3"])
def test_many_steps_approach_the_exact_trajectory(name: str) -> None:
    """x_0 = mu + d (z - a_T mu) / sqrt(a_T^2 d^2 + s_T^2), the solution of the ODE from T to 0."""
    found, exact = sampler(name)
    noise = torch.randn(2, *found.latent_shape, generator=torch.Generator().manual_seed(0))
    a, s = exact.at(1000.0 if found.family.flow else 999.0)
    expected = MEAN + DEVIATION * (noise.double() - a * MEAN) / (a**2 * DEVIATION**2 + s**2).sqrt()
    errors = []
    for steps in (20, 200):
        drawn = found.draw(["a red circle"] * 2, noise, steps=steps, guidance_scale=1.0)
        errors.append((drawn.double() - expected).abs().max().item())
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.06


@pytest.mark.parametrize("name", TEACHERS)
def test_pairs_do_not_depend_on_their_shard(name: str) -> None:
    """The same rows in two parts, or with other rows before them, have the same noise and latents."""
    texts, teacher = captions(4, 3), TeacherSource(str(WEIGHTS / name))
    make = PairMaker(PairSettings(steps=2), teacher, "cpu")
    whole, second = make(texts, 10), make(texts[2:], 12)
    torch.testing.assert_close(whole[2:], second, rtol=1e-4, atol=1e-4)
    assert whole.isfinite().all() and (make(texts, 11) - whole).abs().mean() > 0.1
    other = PairMaker(PairSettings(steps=2, seed=1), teacher, "cpu")(texts, 10)
    assert (other - whole).abs().mean() > 0.1


def test_noise_is_a_function_of_the_row() -> None:
    """Seeds are exact integers, and equal to those of torch's own generator."""
    seeds = row_seeds(PairSettings(), 2**24, 3)
    assert seeds.tolist() == [2**24, 2**24 + 1, 2**24 + 2]
    by_hand = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(2**24 + 1))
    assert torch.equal(noise_of(seeds, (4, 2, 2))[1], by_hand)
    make = NoiseSeeds(PairSettings()).open(TeacherSource("anything"), "cpu")
    assert torch.equal(make(["a", "b"], 7), torch.tensor([[7], [8]]))


ASKED = (PairSettings(), PairSettings(steps=7), PairSettings(guidance_scale=2), PairSettings(seed=1))


def test_columns_of_trainings() -> None:
    teacher = TeacherSource("anything")
    assert columns_of(PGSBSettings(), teacher) == ()
    columns = columns_of(RegressionSettings(), teacher)
    assert [column.name for column in columns] == ["noise_seed", TEACHER_LATENTS]
    digests = {
        column.digest()
        for pairs in (
            PairSettings(),
            PairSettings(steps=7),
            PairSettings(guidance_scale=2),
            PairSettings(seed=1),
        )
        for column in (TeacherLatents(teacher, pairs), TeacherLatents(TeacherSource("other"), pairs))
    }
    assert len(digests) == 8
