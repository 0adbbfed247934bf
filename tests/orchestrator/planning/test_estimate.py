"""Estimates: memory against real engines, refusal of sweeps that cannot fit, and the plan's text."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from orchestrator.common.errors import UserError
from orchestrator.config.gpu_sharing import CONTEXT_BYTES
from orchestrator.config.gpu_specs import GPUS, RESERVED, Gpu
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.estimate import (
    SECONDS_TO_START,
    assumed_tflops,
    check_budget,
    check_memory,
    estimate,
    total_hours,
    worker_needs,
)
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.zero_memory import Zero2
from tests.benchmarks.memory import peak_bytes
from tests.support.cli import refused
from tests.support.process_group import start_workers
from tests.workloads.training.test_memory_estimate import LORA, miniature, texts
from workloads.backbones.backbone import load_backbone
from workloads.miniature import WEIGHTS
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import StepSettings
from workloads.students.ema import AverageWeights
from workloads.students.student import new_student
from workloads.training.memory_estimate import StepTask, step_needs
from workloads.training.step import train_step

REPOSITORY = Path(__file__).parents[3]
BACKBONES, FLOW = REPOSITORY / "sweeps/backbones.yaml", REPOSITORY / "sweeps/flow.yaml"
README = REPOSITORY / "orchestrator/planning/README.md"
CHECKPOINTING = "resources.step.activation_checkpointing=true"


def planned(*overrides: str) -> Plan:
    return make_plan(load_sweep(BACKBONES, list(overrides)))


@pytest.mark.usefixtures("no_ray")
def test_oversized_sweep_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = (
        r"trial sd15-\S+: a worker needs 6\d\.\d GiB, but of A100-40GB's 39 GiB only 35\.9 GiB are usable; "
        r"resources\.step \{activation_checkpointing: true\} \(\d\d\.\d GiB\) fits, "
        r"or train\.batch_size \d+ fits$"
    )
    for more in (["--plan"], ["--storage", str(tmp_path / "results")]):
        refused(capsys, pattern, str(BACKBONES), *more, "--set", "train.batch_size=256")
    assert not (tmp_path / "results").exists()


def miniature_sweep(*overrides: str) -> Plan:
    """A sweep of one transformer of a few MB, on a GPU; `with_megabytes` shrinks the GPU."""
    common = [
        "resources.gpus_per_worker=1",
        "resources.gpu=L4",
        "evaluate.scorers=[]",
        "train.precision=fp32",
    ]
    common.append("backbones=[{name: pixart, model: miniature/pixart}]")
    return make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml", [*common, *overrides]))


def with_megabytes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setitem(GPUS, "L4", Gpu(count * 1e6 / 2**30 / (1 - RESERVED), 121, 30.3))


def test_suggested_settings_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with_megabytes(monkeypatch, 200)
    with pytest.raises(UserError) as caught:
        check_memory(miniature_sweep("train.batch_size=128"))
    assert "resources.step {activation_checkpointing: true} (" in str(caught.value)
    check_memory(miniature_sweep("train.batch_size=128", CHECKPOINTING))
    found = re.search(r"or train\.batch_size (\d+) fits$", str(caught.value))
    assert found
    check_memory(miniature_sweep(f"train.batch_size={found[1]}"))
    with pytest.raises(UserError):
        check_memory(miniature_sweep(f"train.batch_size={int(found[1]) * 3 // 2}"))


def test_checkpointing_and_smaller_batch_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with_megabytes(monkeypatch, 150)
    with pytest.raises(UserError) as caught:
        check_memory(miniature_sweep("train.batch_size=2048", "evaluate.sheet_prompts=[a circle]"))
    found = re.search(r"train\.batch_size (\d+) fits$", str(caught.value))
    assert found
    check_memory(miniature_sweep(f"train.batch_size={found[1]}", "evaluate.sheet_prompts=[a circle]"))


def test_gpu_too_small_for_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with_megabytes(monkeypatch, 20)
    pattern = "one sample per worker does not fit .*: choose a larger GPU, or more workers$"
    with pytest.raises(UserError, match=pattern):
        check_memory(miniature_sweep())


def test_sampling_may_need_more_than_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned("backbones=[{name: x, model: PixArt-alpha/PixArt-XL-2-512x512}]", CHECKPOINTING)
    needs = worker_needs(plan, plan.trials[0], rows=1)
    assert needs is not None and needs.peak_is_sampling
    monkeypatch.setitem(GPUS, "A100-40GB", Gpu(needs.bytes * 0.99 / 2**30, 312, 19.5))
    with pytest.raises(UserError, match=r"sampling images does not fit .*: choose a larger GPU"):
        check_memory(plan)


def test_shipped_sweep_fits_both_machines() -> None:
    check_memory(planned())
    check_memory(planned("resources.gpu=H200", "resources.workers=1"))


def test_speed_is_operations_at_an_assumed_rate() -> None:
    plan = planned()
    trial = plan.trials[0]
    guess = estimate(plan, trial)
    assert guess is not None
    assert assumed_tflops(plan, trial) == pytest.approx(0.3 * 312)
    # Nine forward passes of 0.803e12 and the adapters', for each of four GPUs (anchors: 13.0 a second).
    assert guess.samples_per_second / 4 == pytest.approx(13.0, rel=0.05)
    assert guess.hours == pytest.approx(60_000 * 64 / guess.samples_per_second / 3600, rel=0.01)
    slower = planned("budget.assumed_tflops=46.8")
    again = estimate(slower, slower.trials[0])
    assert again is not None and again.samples_per_second == pytest.approx(guess.samples_per_second / 2)
    assert "budget.assumed_tflops, 46.8 TFLOP/s" in describe_plan(slower, "x", "y")


def small_sweep(share: float, *more: str) -> Plan:
    """A training on a share of an L4."""
    return miniature_sweep(
        f"resources.gpus_per_worker={share}",
        "budget.price_per_gpu_hour=2",
        "budget.max_gpu_hours=1000",
        *more,
    )


def test_a_share_has_its_part_of_memory_less_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest batch of a quarter, found by the refusal; four such workers and their contexts fit."""
    with_megabytes(monkeypatch, 4 * (537 + 200))
    with pytest.raises(UserError) as caught:
        check_memory(small_sweep(0.25, "train.batch_size=128"))
    text = str(caught.value)
    assert "0.19 GiB are usable by each of the 4 workers that share it; resources.step {" in text
    assert text.endswith("fits, or resources.gpus_per_worker 0.3333 fits")
    check_memory(small_sweep(0.3333, "train.batch_size=128"))
    found = re.search(r"train\.batch_size (\d+) fits", text)
    assert found
    check_memory(small_sweep(0.25, f"train.batch_size={found[1]}"))
    gpu = GPUS["L4"]
    assert 4 * (gpu.usable_bytes(0.25) + CONTEXT_BYTES) == pytest.approx(gpu.usable_bytes())


def test_a_share_costs_a_share() -> None:
    """As long as the GPU is busy, four trainings that take turns cost what they cost one after the other."""
    whole, quarter = small_sweep(1), small_sweep(0.25)
    rates = [assumed_tflops(plan, plan.trials[0]) for plan in (whole, quarter)]
    assert rates == [pytest.approx(0.3 * 30.3), pytest.approx(0.3 * 30.3 / 4)]
    hours = [total_hours(plan) for plan in (whole, quarter)]
    assert hours[0] and hours[1]
    start = len(whole.trials) * SECONDS_TO_START / 3600
    assert (hours[1] - start) == pytest.approx(4 * (hours[0] - start))
    text = describe_plan(quarter, "x", "y")
    assert "each trial requests 0.85 CPUs and 0.25 GPUs (1 workers of 0.7 CPU and 0.25 GPU, " in text
    assert "4.6 GiB of them usable by each of the 4 workers that share it: fits" in text
    assert "samples/s: counted operations of a step at 0.25 of 30% of the peak of L4, 2.27 TFLOP/s" in text
    spent = hours[1] * 0.25
    assert f"{hours[1]:.2f} h of trials, {spent:.3g} GPU-hours, {2 * spent:.3g} at 2 a GPU-hour" in text
    with pytest.raises(UserError, match=rf"about {spent:.3g} GPU-hours, above budget.max_gpu_hours 0\.001"):
        check_budget(small_sweep(0.25, "budget.max_gpu_hours=0.001"))


def test_float32_has_its_own_assumed_rate() -> None:
    plan = planned("train.precision=fp32")
    assert assumed_tflops(plan, plan.trials[0]) == pytest.approx(0.3 * 19.5)


def test_unknown_backbone_is_planned_with_gaps() -> None:
    plan = planned("backbones.sd15.model=nobody/nothing")
    check_memory(plan)
    text = describe_plan(plan, "x", "y")
    assert re.search(r"sd15-\S+ .* \?  +\?  +\?", text) and "time: unknown" in text


H200 = ("resources.gpu=H200", "resources.workers=1", "budget.price_per_gpu_hour=3.5")
PLANS = {
    "4 x A100-40GB": (BACKBONES, ()),
    "1 x H200": (BACKBONES, H200),
    "4 x A100-80GB": (FLOW, ()),
    "1 x H200, flow": (FLOW, H200),
}
"""The sweep file and the settings of each table, by its title in the README."""


def test_readme_shows_the_refusal() -> None:
    with pytest.raises(UserError) as caught:
        check_memory(planned("train.batch_size=256"))
    assert str(caught.value).partition(": ")[2] in " ".join(README.read_text().split())


@pytest.mark.parametrize("title", PLANS)
def test_readme_shows_the_plans(title: str) -> None:
    file, settings = PLANS[title]
    plan = make_plan(load_sweep(file, list(settings)))
    check_memory(plan)
    text = describe_plan(plan, "x", "y")
    readme = README.read_text()
    shown = readme.split(f"\n{title}:\n\n```text\n")[1].split("```")[0].splitlines()
    assert len(shown) == len(plan.trials) + 2
    for line in shown:
        assert line in text.splitlines(), line


TRAIN = PGSBSettings(batch_size=8, lora=LORA)
BUCKET = 100_000
"""Gradients per reduction: few, because DeepSpeed's usual buckets would hold all gradients of a miniature."""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.heavy
def test_real_engines_match_the_estimate(
    half: bool, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = start_workers(workers, _train_sharded, tmp_path, half)
    monkeypatch.setattr("orchestrator.planning.zero_memory.BUCKET_ELEMENTS", BUCKET)
    step_needs.cache_clear()
    task = StepTask(miniature("pixart"), TRAIN, 4, half, StepSettings(), Zero2(workers, buckets=1))
    needs = step_needs(task)
    step_needs.cache_clear()
    wait()
    assert needs.peak == pytest.approx(int((tmp_path / "peak").read_text()), rel=0.05)


def _train_sharded(rank: int, folder: str, half: bool) -> None:
    """Run two steps as one worker; rank 0 writes the measured peak, engines and average included."""
    from orchestrator.training import deepspeed_engine as engine

    usual = engine._config
    as_on_gpus = {"reduce_bucket_size": BUCKET, "contiguous_gradients": True, "reduce_scatter": True}
    if distributed.get_world_size() > 1:
        engine._config = lambda *given: _with(usual(*given), "zero_optimization", as_on_gpus)
    engine.prepare_process()
    peak = peak_bytes(lambda: _two_steps(engine.Engine, half))
    if rank == 0:
        (Path(folder) / "peak").write_text(str(peak))


def _with(config: dict[str, Any], section: str, more: dict[str, Any]) -> dict[str, Any]:
    return {**config, section: {**config[section], **more}}


def _two_steps(make: Any, half: bool) -> None:
    backbone = load_backbone(str(WEIGHTS / "pixart"), dtype=torch.bfloat16 if half else torch.float32)
    student = new_student(backbone)
    objective = make_objective(backbone, texts(backbone, 1), TRAIN)
    networks = {STUDENT: student, **{name: each.module for name, each in objective.auxiliary.items()}}
    engines = {name: make(network, 1e-4, TRAIN) for name, network in networks.items()}
    average = AverageWeights(engines[STUDENT].weights, TRAIN.ema_decay)
    for step in (1, 2):
        draws = objective.draw(8, torch.Generator().manual_seed(step))[:4]
        train_step(objective, engines, Batch(texts(backbone, 4)), draws)
        average.update(engines[STUDENT].weights, step)
