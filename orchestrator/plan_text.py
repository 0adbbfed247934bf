"""The plan as a person reads it: trials, what they ask of the cluster, memory, time, cost."""

from dataclasses import dataclass

from orchestrator.errors import UserError
from orchestrator.plan import DRIVER_CPUS, Plan, Trial
from workloads.cost import FORWARDS_PER_SAMPLE, network_cost, state_bytes

ASSUMED_CPU_TFLOPS = 0.02
"""Sustained by one worker on half a CPU: the order of magnitude that miniatures reach."""
ASSUMED_GPU_TFLOPS = 90.0
"""About 30 % of an A100's bf16 peak: a goal, not a measurement."""
SECONDS_TO_START = 30
"""Of a trial, before its first step: processes, imports, engines."""


@dataclass(frozen=True)
class Estimate:
    """Of one trial; None where nothing is known of its network."""

    state_gigabytes: float | None
    hours: float | None


def estimate(plan: Plan, trial: Trial) -> Estimate:
    """Memory of weights and optimisers on a worker, and hours of the trial."""
    cost = network_cost(trial.source)
    if cost is None:
        return Estimate(None, None)
    resources, gpu = plan.sweep.resources, plan.sweep.resources.gpus_per_worker > 0
    half = trial.train.precision == "bf16" or (trial.train.precision == "auto" and gpu)
    # A LoRA of rank 64 on q and v adds about one per cent; close enough for a plan.
    memory = state_bytes(cost, cost.parameters // 100, resources.workers, half)
    assumed = plan.sweep.budget.assumed_tflops or (ASSUMED_GPU_TFLOPS if gpu else ASSUMED_CPU_TFLOPS)
    forwards = FORWARDS_PER_SAMPLE + 4 * (trial.train.fake_score_updates - 1)
    tflops = cost.forward_tflops * forwards * trial.train.batch_size * trial.train.steps
    seconds = SECONDS_TO_START + tflops / (assumed * resources.workers)
    return Estimate(memory / 1e9, seconds / 3600)


def gpu_hours(plan: Plan) -> float | None:
    """Of the whole sweep; None if any trial's time is unknown."""
    hours = [estimate(plan, trial).hours for trial in plan.trials]
    if any(h is None for h in hours):
        return None
    return sum(h or 0.0 for h in hours) * plan.gpus_per_trial


def check_budget(plan: Plan) -> None:
    """Refuses a sweep whose estimate is above its own budget.

    Raises:
        UserError: with both figures.
    """
    limit, hours = plan.sweep.budget.max_gpu_hours, gpu_hours(plan)
    if limit is not None and hours is not None and hours > limit:
        raise UserError(
            f"sweep {plan.sweep.name}: about {hours:.0f} GPU-hours, above budget.max_gpu_hours "
            f"{limit:g}; take fewer trials or steps, or raise the budget"
        )


def plan_text(plan: Plan, storage: str, tracking: str) -> str:
    """The plan in lines: a table of trials, then totals and where things go."""
    sweep, resources = plan.sweep, plan.sweep.resources
    width = max(len(trial.name) for trial in plan.trials)
    lines = [
        f"sweep {sweep.name}: {len(plan.trials)} trials on {len(sweep.backbones)} backbones, "
        f"launch {plan.digest}",
        f"{'trial':<{width}}  guidance  seed   steps  batch  states GB  hours",
    ]
    for trial in plan.trials:
        guess, train = estimate(plan, trial), trial.train
        memory = "?" if guess.state_gigabytes is None else f"{guess.state_gigabytes:.2f}"
        hours = "?" if guess.hours is None else f"{guess.hours:.2f}"
        lines.append(
            f"{trial.name:<{width}}  {trial.interval:>8}  {train.seed:>4}  {train.steps:>6}  "
            f"{train.batch_size:>5}  {memory:>9}  {hours:>5}"
        )
    asks = f"{plan.cpus_per_trial:g} CPUs" + (
        f" and {plan.gpus_per_trial} GPUs" if plan.gpus_per_trial else ", no GPU"
    )
    lines += [
        f"each trial asks for {asks} ({resources.workers} workers of {resources.cpus_per_worker:g} "
        f"CPU and {resources.gpus_per_worker} GPU, and {DRIVER_CPUS:g} CPU "
        f"for its driver); as many run at once as the cluster holds",
        "states: weights, gradients and optimisers of one worker under ZeRO-2; activations come on top",
        *_infer_lines(plan),
        _cost_line(plan),
        f"storage: {storage}",
        f"tracking: {tracking}",
    ]
    return "\n".join(lines)


def _infer_lines(plan: Plan) -> list[str]:
    """What the second search tries, and what it saves against training for every strength."""
    if plan.infer is None:
        return []
    infer, arms, trainings = plan.infer.infer, plan.infer.arms, len(plan.trials)
    tried: dict[str, list[str]] = {}
    for arm in arms[1:]:
        tried.setdefault(arm.label, []).append(f"{arm.strength:g}")
    kinds = "; ".join(f"{label} {', '.join(strengths)}" for label, strengths in tried.items())
    pictures = len(plan.infer.pairs) * infer.pictures
    hours = [estimate(plan, trial).hours for trial in plan.trials]
    total = sum(h or 0.0 for h in hours)
    full = f" and about {total * len(arms):.2f} h" if all(hours) else ""
    this = f" and about {total:.2f} h" if all(hours) else ""
    return [
        f"infer: each student is drawn at {len(arms)} strengths (none; {kinds}), {pictures} pictures each: "
        f"{trainings * len(arms)} small trials of {DRIVER_CPUS:g} CPU and {infer.gpus:g} GPU",
        f"trainings: {trainings}{this}; the full grid of settings and strengths would be "
        f"{trainings * len(arms)} trainings{full}",
    ]


def _cost_line(plan: Plan) -> str:
    hours = [estimate(plan, trial).hours for trial in plan.trials]
    if any(h is None for h in hours):
        return "time: unknown, as nothing is known of a backbone that is not in the local cache"
    total = sum(h or 0.0 for h in hours)
    text = f"time: about {total:.2f} h of trials, from counted operations at an assumed (not measured) "
    gpu = plan.gpus_per_trial > 0
    rate = plan.sweep.budget.assumed_tflops or (ASSUMED_GPU_TFLOPS if gpu else ASSUMED_CPU_TFLOPS)
    text += f"{rate:g} TFLOP/s a worker"
    used = gpu_hours(plan)
    if gpu and used is not None:
        text += f"; {used:.0f} GPU-hours"
        price = plan.sweep.budget.price_per_gpu_hour
        text += f", {used * price:,.0f} at {price:g} an hour" if price is not None else ""
    return text
