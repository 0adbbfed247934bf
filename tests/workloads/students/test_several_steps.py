"""Students of two and four steps: their noise levels, the noise of their steps, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from torch import Tensor

from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import Backbone, load_backbone, load_scheduler_config
from workloads.backbones.families import family_of
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.merge import merge_students
from workloads.students.sampler import Generator, draw_pairs, load_student
from workloads.students.schedulers import student_scheduler, student_steps, with_student_steps
from workloads.students.student import generate, new_student, save_student
from workloads.students.unroll import draw_noise

FLOW = [name for name in TEACHERS if family_of(str(WEIGHTS / name)).flow]
TABLES = [name for name in TEACHERS if name not in FLOW]
PROMPT = "a large red circle"


def backbone(teacher: str, steps: int, start: int | None = None) -> Backbone:
    return with_student_steps(load_backbone(str(WEIGHTS / teacher), start_timestep=start), steps)


def saved(teacher: str, steps: int, folder: Path, start: int | None = None) -> str:
    """Save a student whose weights differ from its teacher's at random."""
    opened = backbone(teacher, steps, start)
    network, generator = new_student(opened), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_student(opened, network, folder)
    return str(folder)


@pytest.mark.parametrize("teacher", TABLES)
@pytest.mark.parametrize(
    ("start", "steps", "expected"),
    [
        (399, 4, [399, 299, 199, 99]),
        (400, 4, [399, 299, 199, 99]),
        (999, 2, [999, 499]),
        (300, 2, [299, 149]),
    ],
)
def test_levels_of_a_table_are_evenly_spaced(
    teacher: str, start: int, steps: int, expected: list[int]
) -> None:
    opened = backbone(teacher, steps, start)
    scheduler, rungs = student_scheduler(opened), opened.rungs
    assert isinstance(scheduler, LCMScheduler) and rungs is not None
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == rungs.time.tolist() == expected
    bar = (1 - DDIMScheduler.from_pretrained(WEIGHTS / teacher, subfolder="scheduler").betas).cumprod(0)
    assert torch.equal(rungs.alpha, bar[expected].sqrt())
    torch.testing.assert_close(rungs.alpha**2 + rungs.sigma**2, torch.ones(steps))
    for timestep in scheduler.timesteps:  # x_0 itself, not a blend with x_t
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        assert skip < 1e-12 and abs(out - 1) < 2e-7


@pytest.mark.parametrize("teacher", FLOW)
@pytest.mark.parametrize("steps", [2, 4])
def test_levels_of_flow_matching_are_the_same_for_every_pipeline(teacher: str, steps: int) -> None:
    """Some ask the scheduler for N steps; those of FLUX.2 and Z-Image pass N sigmas, and a shift."""
    opened = backbone(teacher, steps)
    scheduler, rungs = student_scheduler(opened), opened.rungs
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and rungs is not None
    even = torch.tensor([(steps - i) / steps for i in range(steps)])
    for given in ({"num_inference_steps": steps}, {"sigmas": np.linspace(1, 1 / steps, steps), "mu": 1.7}):
        scheduler.set_timesteps(**given)
        torch.testing.assert_close(scheduler.sigmas, torch.cat([even, torch.zeros(1)]), rtol=0, atol=1e-6)
        torch.testing.assert_close(scheduler.timesteps, 1000 * even, rtol=0, atol=1e-3)
    torch.testing.assert_close(rungs.sigma, even, rtol=0, atol=1e-6)
    assert rungs.sigma[0] == 1 and rungs.alpha[0] == 0
    torch.testing.assert_close(rungs.time, 1000 * even, rtol=0, atol=1e-3)


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_saved_student_tells_its_steps(teacher: str, steps: int, tmp_path: Path) -> None:
    start = None if teacher in FLOW else 400
    folder = saved(teacher, steps, tmp_path / "student", start)
    assert student_steps(load_scheduler_config(folder)) == steps
    ours, loaded = backbone(teacher, steps, start), load_student(folder)
    assert loaded.student_steps == steps
    if steps == 1:
        assert loaded.rungs is None and loaded.start_timestep == ours.start_timestep
        return
    assert ours.rungs is not None and loaded.rungs is not None
    for name in ("alpha", "sigma", "time"):
        assert torch.equal(getattr(loaded.rungs, name), getattr(ours.rungs, name))


@pytest.mark.parametrize("teacher", ["unet-v", "sana"])
def test_each_step_adds_its_noise_to_the_prediction_before(teacher: str) -> None:
    """By hand, with the noise levels written out, of two rows in batches of one."""
    opened = backbone(teacher, 2, None if teacher in FLOW else 999)
    student, prompts = new_student(opened).eval(), TextEncoder(opened.source).encode([PROMPT, "a blue cross"])
    noise = draw_noise(opened, 2, torch.Generator().manual_seed(1))
    assert noise.shape == (2, 2, *opened.latent_shape)
    if teacher in FLOW:
        time, alpha, sigma = torch.tensor([1000.0, 500.0]), torch.tensor([0.0, 0.5]), torch.tensor([1.0, 0.5])
    else:
        time = torch.tensor([999, 499])
        alpha, sigma = opened.schedule.alpha[time], opened.schedule.sigma[time]

    @torch.no_grad()
    def predicted(x: Tensor, rung: int) -> Tensor:
        mask = {"encoder_attention_mask": prompts.mask} if teacher in FLOW else {}
        text = prompts.embeddings
        out: Tensor = student(
            x, encoder_hidden_states=text, timestep=time[rung].expand(2), **mask, return_dict=False
        )[0]
        signal: Tensor = x if teacher in FLOW else alpha[rung] * x
        return signal - sigma[rung] * out

    expected = predicted(alpha[1] * predicted(noise[:, 0], 0) + sigma[1] * noise[:, 1], 1)
    ours = generate(opened, student, noise, prompts, batch=1)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_first_noise_is_that_of_a_student_of_one_step() -> None:
    one, four = backbone("pixart", 1), backbone("pixart", 4)
    noise = draw_noise(one, 3, torch.Generator().manual_seed(5))
    plain = torch.randn((3, *one.latent_shape), generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise, plain[:, None])
    assert torch.equal(draw_noise(four, 3, torch.Generator().manual_seed(5))[:, 0], plain)
    later = draw_noise(four, 3, torch.Generator().manual_seed(5), torch.Generator().manual_seed(6))
    assert torch.equal(later[:, 0], plain)
    assert len({round(part.sum().item(), 4) for part in later.flatten(0, 1)}) == 12


@pytest.mark.parametrize("teacher", ["unet-epsilon", "sana", "sd3"])
def test_attention_guidance_is_on_in_every_step(teacher: str) -> None:
    """Steps that are guided alone give other pictures than all steps or none."""
    opened = backbone(teacher, 2, None if teacher in FLOW else 400)
    student, encoder = new_student(opened).eval(), TextEncoder(opened.source)
    prompts, negative = encoder.encode([PROMPT]), encoder.encode(["red"], negative=True)
    noise = draw_noise(opened, 1, torch.Generator().manual_seed(1))
    settings = AttentionGuidanceSettings("nag", 4.0)
    guided = generate(opened, student, noise, prompts, AttentionGuidance(student, negative, settings))
    by_hand = noise[:, 0]
    with torch.no_grad(), AttentionGuidance(student, negative, settings):
        first = opened.one_step(student, by_hand, prompts, 0)
        expected = opened.one_step(student, opened.renoise(first, noise[:, 1], 1), prompts, 1)
    torch.testing.assert_close(guided, expected, rtol=0, atol=0)
    with torch.no_grad():  # the first step alone
        other = opened.one_step(student, opened.renoise(first, noise[:, 1], 1), prompts, 1)
    assert (guided - other).abs().max() > 1e-2
    assert (guided - generate(opened, student, noise, prompts)).abs().max() > 1e-2


def test_pairs_are_drawn_from_the_seed_alone(tmp_path: Path) -> None:
    folder, encoder = saved("pixart", 2, tmp_path / "student"), TextEncoder(str(WEIGHTS / "pixart"))
    prompts, negatives = encoder.encode([PROMPT, "a blue cross"]), encoder.encode(["red"], negative=True)

    def drawn(seed: int, kind: str = "none") -> Tensor:
        settings = AttentionGuidanceSettings(kind, 1.0 if kind != "none" else 0.0)  # type: ignore[arg-type]
        batches = draw_pairs(folder, prompts, negatives, settings, pictures=20, seed=seed)
        return torch.cat([pictures for _, pictures in batches])

    assert torch.equal(drawn(3), drawn(3)) and drawn(3).shape[0] == 40
    assert not torch.equal(drawn(3), drawn(4)) and not torch.equal(drawn(3), drawn(3, "nasa"))


def test_a_generator_draws_a_seed_alike_in_every_batch(tmp_path: Path) -> None:
    generator = Generator(Path(saved("unet-v", 4, tmp_path / "student", 500)))
    both, alone = generator.draw(PROMPT, [0, 1]), generator.draw(PROMPT, [1])
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(generator.draw(PROMPT, [1], "red", 1.0), alone, atol=0.02)


def test_students_of_other_steps_are_not_merged(tmp_path: Path) -> None:
    first, second = saved("sana", 2, tmp_path / "a"), saved("sana", 4, tmp_path / "b")
    with pytest.raises(ValueError, match="differ in steps: merge students of as many steps"):
        merge_students(first, second, tmp_path / "out")
    merge_students(first, first, tmp_path / "out")
    assert load_student(str(tmp_path / "out")).student_steps == 2


def test_starts_that_leave_too_few_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"start_timestep 6 .*: too small for .* 4 steps: set at least 7"):
        backbone("unet-v", 4, 6)
    assert backbone("unet-v", 4, 7).student_steps == 4
    with pytest.raises(
        ValueError, match=r"start_timestep 800 .*starts at pure noise: leave start_timestep out"
    ):
        backbone("sana", 2, 800)


def test_noise_for_other_steps_is_refused() -> None:
    opened = backbone("pixart", 4)
    noise = torch.zeros(1, *opened.latent_shape)
    with pytest.raises(ValueError, match="noise for 1 steps, but the student has 4"):
        generate(opened, opened.network, noise, TextEncoder(opened.source).encode([PROMPT]))
    assert replace(opened, rungs=None).student_steps == 1


def test_a_foreign_stochastic_scheduler_is_of_one_step() -> None:
    """It has no last step of its own, which a student's states."""
    assert student_steps({"stochastic_sampling": True, "shift_terminal": None}) == 1
    assert student_steps({"stochastic_sampling": True, "shift_terminal": 0.25}) == 4
