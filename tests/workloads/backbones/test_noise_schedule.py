import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from workloads.backbones.noise_schedule import NoiseSchedule, Prediction

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PIXART = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.mark.parametrize(("config", "alpha"), [(SD, 0.0683), (PIXART, 0.00635)])
def test_last_alpha_of_the_families(config: dict[str, object], alpha: float) -> None:
    schedule = NoiseSchedule.from_config(config)
    assert schedule.alpha[-1].item() == pytest.approx(alpha, rel=5e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_conversions_of_exact_predictions(prediction: Prediction) -> None:
    schedule = NoiseSchedule.from_config({**SD, "prediction_type": prediction})
    latents, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([1, 500, 999])
    noisy = schedule.add_noise(latents, noise, t)
    alpha, sigma = schedule.alpha_sigma(t)
    truth = {"epsilon": noise, "v_prediction": alpha * noise - sigma * latents, "sample": latents}
    output = truth[prediction]
    torch.testing.assert_close(schedule.to_latents(output, noisy, t), latents, rtol=1e-3, atol=1e-3)
    if prediction != "sample":  # at t = 1, epsilon from x_0 is mostly rounding error
        torch.testing.assert_close(schedule.to_epsilon(output, noisy, t), noise, rtol=1e-3, atol=1e-3)


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
SANA = {
    "_class_name": "DPMSolverMultistepScheduler",
    "beta_schedule": "linear",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
KLEIN = {**FLOW, "shift": 3.0, "use_dynamic_shifting": True, "max_shift": 1.15}
SHIFTS = [(FLOW, 1), ({**FLOW, "shift": 3.0}, 3), (SANA, 3), (KLEIN, 3.1582)]


@pytest.mark.parametrize(("config", "shift"), SHIFTS)
def test_flow_matching_of_the_families(config: dict[str, object], shift: float) -> None:
    schedule = NoiseSchedule.from_config(config)
    assert schedule.is_flow and len(schedule) == 1000 and schedule.last_start == 999
    tables = (schedule.alpha, schedule.sigma, schedule.time)
    assert [table[-1].item() for table in tables] == [0, 1, 1000]
    assert schedule.sigma[499].item() == pytest.approx(shift * 0.5 / (1 + (shift - 1) * 0.5), rel=1e-5)
    torch.testing.assert_close(schedule.alpha + schedule.sigma, torch.ones(1000))


def test_flow_timesteps_are_those_of_the_stock_scheduler() -> None:
    stock = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = NoiseSchedule.from_config({**stock.config, "_class_name": type(stock).__name__})
    torch.testing.assert_close(ours.sigma.flip(0), stock.sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.time.flip(0), stock.timesteps, rtol=1e-6, atol=0)


def test_flow_conversions_of_exact_predictions() -> None:
    schedule = NoiseSchedule.from_config({**FLOW, "shift": 3.0})
    latents, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    noisy, velocity = schedule.add_noise(latents, noise, t), noise - latents
    torch.testing.assert_close(schedule.to_latents(velocity, noisy, t), latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(schedule.to_epsilon(velocity, noisy, t), noise, rtol=1e-5, atol=1e-5)
    assert not schedule.denoising_error(velocity, noisy, latents, noise, t).any()


def test_continuous_timesteps_are_refused() -> None:
    config = {"_class_name": "EDMEulerScheduler", "beta_schedule": "linear", "timestep_type": "continuous"}
    with pytest.raises(ValueError, match=r"EDMEulerScheduler .* not supported"):
        NoiseSchedule.from_config(config)
