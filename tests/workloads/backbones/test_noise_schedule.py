import pytest
import torch

from workloads.backbones.noise_schedule import NoiseSchedule, Prediction

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PIXART = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.mark.parametrize(("config", "alpha"), [(SD, 0.0683), (PIXART, 0.00635)])
def test_last_alpha_of_the_families(config: dict[str, object], alpha: float) -> None:
    schedule = NoiseSchedule.from_config(config)
    assert schedule.alpha_bar[-1].sqrt().item() == pytest.approx(alpha, rel=5e-3)


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


def test_flow_matching_is_refused() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler .* not supported"):
        NoiseSchedule.from_config(config)
