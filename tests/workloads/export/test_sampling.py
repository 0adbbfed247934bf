"""How other tools draw with a student: steps, sigmas, and where they cannot."""

from pathlib import Path

import pytest
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from tests.support.teacher_layouts import index
from workloads.export.sampling import Sampling, sampling_of

EPSILON, FLOW = "StableDiffusionPipeline", "SanaPipeline"
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def sampled(folder: Path, pipeline: str, scheduler: DDIMScheduler) -> Sampling:
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    index(_class_name=pipeline, scheduler=["diffusers", type(scheduler).__name__])(folder)
    return sampling_of(folder)


def one_step(start: int) -> DDIMScheduler:
    betas = DDIMScheduler(**BETAS).betas[: start + 1].tolist()
    return DDIMScheduler(
        num_train_timesteps=start + 1, trained_betas=betas, timestep_spacing="trailing", set_alpha_to_one=True
    )


def test_one_step_from_the_end_of_the_schedule(tmp_path: Path) -> None:
    found = sampled(tmp_path, EPSILON, one_step(999))
    assert found.timesteps == (999,) and found.sigmas[0] == pytest.approx(14.6146, abs=1e-3)
    assert found.advice().startswith("1 step, CFG scale 1, sampler Euler, sigmas 14.61, 0 (timesteps 999;")


def test_a_start_before_the_end_is_for_diffusers_alone(tmp_path: Path) -> None:
    """The noise of timestep 399 is 0.758 of the noise that the student is given there."""
    found = sampled(tmp_path, EPSILON, one_step(399))
    assert found.noise == pytest.approx(0.75757, abs=1e-4)
    assert "at timestep 399: ComfyUI and AUTOMATIC1111 start there with 76% of the noise" in found.advice()


def test_several_steps(tmp_path: Path) -> None:
    found = sampled(tmp_path, EPSILON, LCMScheduler(original_inference_steps=4, **BETAS))
    assert found.timesteps == (999, 749, 499, 249) and found.steps == 4
    assert found.advice().startswith("4 steps, CFG scale 1, sampler LCM, sigmas 14.61, ")
    flow = FlowMatchEulerDiscreteScheduler(shift=1.0, shift_terminal=0.5, stochastic_sampling=True)
    found = sampled(tmp_path, FLOW, flow)
    assert found.steps == 2 and found.sigmas == pytest.approx((1.0, 0.5))


def test_one_step_of_flow_matching(tmp_path: Path) -> None:
    found = sampled(tmp_path, FLOW, FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert (found.timesteps, found.sigmas, found.noise) == ((1000.0,), (1.0,), 1.0)
    assert "prediction type flow_prediction" in found.advice()
