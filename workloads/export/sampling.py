"""How other tools must sample with a student, since files of weights do not hold its scheduler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.backbones.backbone import load_scheduler_config
from workloads.backbones.families import family_of
from workloads.backbones.teacher_pipeline import load_scheduler
from workloads.students.schedulers import student_steps

PURE = 0.99
"""Share of noise in the input of the first call, from which on it is taken for pure noise."""


@dataclass(frozen=True)
class Sampling:
    """The calls of a student's network, and the schedule that they belong to."""

    scheduler: str
    """Class of the student's scheduler in diffusers."""
    timesteps: tuple[float, ...]
    """Timestep of each call."""
    sigmas: tuple[float, ...]
    """Noise over signal of each call: sqrt(1 - alpha_bar) / sqrt(alpha_bar); in flow matching the time t."""
    noise: float
    """Share of noise in the input of the first call: sqrt(1 - alpha_bar); in flow matching the time t."""
    prediction: str
    """What the network predicts: `epsilon`, `v_prediction`, `sample` or `flow_prediction`."""
    guidance: float
    """The `guidance_scale` of the stock pipeline that means none."""

    @property
    def steps(self) -> int:
        """Calls for one picture."""
        return len(self.timesteps)

    def advice(self) -> str:
        """Return one line for people who draw with ComfyUI or AUTOMATIC1111.

        A student's first call gets noise of variance 1. These tools scale noise to that of the timestep,
        which is the same at the end of a schedule alone.
        """
        times = ", ".join(f"{time:g}" for time in self.timesteps)
        calls = "1 step" if self.steps == 1 else f"{self.steps} steps"
        if self.noise < PURE:
            return (
                f"draw in diffusers with the student's own scheduler, {calls}, at timestep {times}: ComfyUI "
                f"and AUTOMATIC1111 start there with {self.noise:.0%} of the noise that it is trained for"
            )
        sigmas = ", ".join(f"{sigma:.4g}" for sigma in (*self.sigmas, 0))
        sampler = "Euler" if self.steps == 1 else "LCM"
        return (
            f"{calls}, CFG scale 1, sampler {sampler}, sigmas {sigmas} (timesteps {times}; in ComfyUI the "
            f"nodes SamplerCustom and ManualSigmas), prediction type {self.prediction}"
        )


def sampling_of(folder: Path) -> Sampling:
    """Return how the student in `folder` is sampled.

    Raises:
        ValueError: its scheduler cannot be read.
    """
    scheduler: Any = load_scheduler(str(folder))
    name = type(scheduler).__name__
    scheduler.set_timesteps(student_steps(load_scheduler_config(str(folder))))
    times, family = tuple(float(time) for time in scheduler.timesteps), family_of(str(folder))
    if family.flow:
        sigmas = tuple(float(sigma) for sigma in scheduler.sigmas[:-1])
        return Sampling(name, times, sigmas, sigmas[0], "flow_prediction", family.neutral_guidance)
    alphas = [float(scheduler.alphas_cumprod[int(time)]) for time in times]
    sigmas = tuple(((1 - alpha) / alpha) ** 0.5 for alpha in alphas)
    prediction = scheduler.config["prediction_type"]
    return Sampling(name, times, sigmas, (1 - alphas[0]) ** 0.5, prediction, family.neutral_guidance)
