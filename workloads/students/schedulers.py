"""Stock schedulers of students, which say at which noise levels a student calls its network.

A student of N steps calls it at N levels, its rungs. The scheduler that is saved with the student fixes them,
and the training reads them from the same object, so that a stock pipeline draws as the student was trained:

    x = z;  at rung i  x_0 = f(x, i),  then  x = alpha_{i+1} x_0 + sigma_{i+1} e  with new noise e;  the last
    x_0 is drawn

N = 1: see `one_step_scheduler`. N = 2 or 4 is multistep sampling of consistency models (Song et al. 2023,
arXiv 2303.01469, algorithm 1), which DMD2 uses too: LCMScheduler does it for alpha_bar schedules, and
FlowMatchEulerDiscreteScheduler with `stochastic_sampling` for flow matching.
"""

from dataclasses import replace
from typing import Any

from diffusers import ConfigMixin, DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from workloads.backbones.backbone import Backbone, load_scheduler_config
from workloads.backbones.families import check_student_steps
from workloads.backbones.noise_schedule import SCHEDULER_STEPS, NoiseSchedule, betas_of, flow_shift

EXACT_SCALING = 1e6
"""LCM's `timestep_scaling` at which its network's output is x_0 but for rounding, not a blend with x_t.

The share of x_t is 0.25 / (1e6 t)^2 at timestep t."""


def with_student_steps(backbone: Backbone, steps: int) -> Backbone:
    """Return the backbone with the rungs of a student of `steps` steps: 1, 2 or 4.

    Raises:
        ValueError: The start timestep leaves too few timesteps, or cannot be chosen.
    """
    if steps == 1:
        return replace(backbone, rungs=None)
    check_student_steps(backbone.source, backbone.family, backbone.start_timestep, steps)
    scheduler = _several_step_scheduler(backbone, steps)
    scheduler.set_timesteps(steps)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        sigma = scheduler.sigmas[:-1]
        alpha = 1 - sigma
    else:
        alpha_bar = scheduler.alphas_cumprod[scheduler.timesteps]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    rungs = NoiseSchedule(alpha, sigma, scheduler.timesteps, backbone.schedule.prediction)
    return replace(backbone, rungs=rungs.to(backbone.device))


def student_steps(config: dict[str, Any]) -> int:
    """Return the number of steps of a student, given the config of its saved scheduler."""
    if config.get("_class_name") == LCMScheduler.__name__:
        return int(config["original_inference_steps"])
    last = config.get("shift_terminal") if config.get("stochastic_sampling") else None
    return round(1 / last) if last else 1


def student_scheduler(backbone: Backbone) -> ConfigMixin:
    """Return the scheduler that is saved with a student of the backbone's number of steps."""
    steps = backbone.student_steps
    scheduler: ConfigMixin = (
        one_step_scheduler(backbone) if steps == 1 else _several_step_scheduler(backbone, steps)
    )
    return scheduler


def one_step_scheduler(backbone: Backbone) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """Return a stock scheduler whose single step is x_0 = (z - sigma_s e) / alpha_s at the start timestep s.

    DDIM's table holds the betas of the backbone's own schedule up to s, so that alpha_s is the same number
    for any schedule. With "trailing" spacing s is the only step, and with `set_alpha_to_one` it returns x_0.
    In flow matching the single Euler step starts at t = 1 and is x_0 = z - v, whatever the shift.
    """
    steps, config = backbone.start_timestep + 1, load_scheduler_config(backbone.source)
    if backbone.schedule.is_flow:
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=flow_shift(config))
    return DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=betas_of(config)[:steps].tolist(),
        prediction_type=backbone.schedule.prediction,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
        steps_offset=1,
    )


def _several_step_scheduler(backbone: Backbone, steps: int) -> LCMScheduler | FlowMatchEulerDiscreteScheduler:
    """Return a stock scheduler whose `set_timesteps(steps)` gives evenly spaced rungs.

    In flow matching they are t = 1, (N - 1) / N, ..., 1 / N. `shift_terminal` makes them so, both in
    pipelines that ask for N steps and in those that pass N sigmas from 1 to 1 / N (FLUX.2, Z-Image).
    """
    if backbone.schedule.is_flow:
        return FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=SCHEDULER_STEPS,
            shift=1.0,
            shift_terminal=1 / steps,
            stochastic_sampling=True,
        )
    # LCM starts at the largest multiple of the spacing; the table ends there.
    timesteps = (backbone.start_timestep + 1) // steps * steps
    return LCMScheduler(
        num_train_timesteps=timesteps,
        original_inference_steps=steps,
        trained_betas=betas_of(load_scheduler_config(backbone.source))[:timesteps].tolist(),
        prediction_type=backbone.schedule.prediction,
        timestep_scaling=EXACT_SCALING,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # has no effect, but Stable Diffusion's pipeline warns of any other
    )
