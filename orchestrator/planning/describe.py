"""The plan as a person reads it: trials, what they ask of the cluster, memory, time, cost."""

from orchestrator.config.gpu_specs import ASSUMED_SHARE, GPUS, UNNAMED
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.estimate import assumed_tflops, estimate, gib, total_hours
from orchestrator.planning.plan import DRIVER_CPUS, Plan, Trial

ABOUT_MEMORY = (
    "memory: the most that a trial's first worker holds, which also draws, from a step "
    "run without content, attention by a fused kernel"
)


def describe_plan(plan: Plan, storage: str, tracking: str, capacity: Capacity | None = None) -> str:
    """The plan in lines: a table of trials, then totals and where things go.

    `capacity` is of the cluster, if the user has described it.
    """
    sweep = plan.sweep
    lines = [
        f"sweep {sweep.name}: {len(plan.trials)} trials on {len(sweep.backbones)} backbones"
        + (f" in {len(sweep.arms)} arms" if sweep.arms else "")
        + f", launch {plan.digest}",
        *_table(plan),
        *_unused_lines(plan),
        _asks_line(plan, capacity),
        _memory_line(plan),
        *_speed_lines(plan),
        *_infer_lines(plan),
        _total_line(plan),
        f"storage: {storage}",
        f"tracking: {tracking}",
    ]
    return "\n".join(lines)


def _table(plan: Plan) -> list[str]:
    width = max(len(trial.name) for trial in plan.trials)
    head = f"{'trial':<{width}}  guidance  seed   steps  batch  GiB/worker  samples/s  hours"
    price = plan.sweep.budget.price_per_gpu_hour is not None and plan.gpus_per_trial > 0
    rows = [_row(plan, trial, width, price) for trial in plan.trials]
    return [head + ("    cost" if price else ""), *rows]


def _row(plan: Plan, trial: Trial, width: int, price: bool) -> str:
    guess, train = estimate(plan, trial), trial.train
    row = (
        f"{trial.name:<{width}}  {trial.interval:>8}  {train.seed:>4}  {train.steps:>6}  "
        f"{train.batch_size:>5}  "
    )
    if guess is None:
        return row + f"{'?':>10}  {'?':>9}  {'?':>5}" + (f"  {'?':>6}" if price else "")
    row += f"{gib(guess.needs.bytes):>10}  {guess.samples_per_second:>9.1f}  {guess.hours:>5.2f}"
    return row + (f"  {_price(plan, guess.hours):>6,.0f}" if price else "")


def _price(plan: Plan, hours: float) -> float:
    return hours * plan.gpus_per_trial * (plan.sweep.budget.price_per_gpu_hour or 0)


def _unused_lines(plan: Plan) -> list[str]:
    """What the file sets and an objective does nothing with: to vary it alone is to train twice."""
    unused = dict.fromkeys(
        (trial.train.objective, name) for trial in plan.trials for name in trial.train.unused
    )
    objectives = dict.fromkeys(objective for objective, _ in unused)
    return [
        f"objective {objective}: makes no use of {', '.join(name for of, name in unused if of == objective)}"
        for objective in objectives
    ]


def _asks_line(plan: Plan, capacity: Capacity | None) -> str:
    resources = plan.sweep.resources
    asks = f"{plan.cpus_per_trial:g} CPUs" + (
        f" and {plan.gpus_per_trial} GPUs" if plan.gpus_per_trial else ", no GPU"
    )
    return (
        f"each trial asks for {asks} ({resources.workers} workers of {resources.cpus_per_worker:g} "
        f"CPU and {resources.gpus_per_worker} GPU, and {DRIVER_CPUS:g} CPU "
        f"for its driver); "
        + ("as many run at once as the cluster holds" if capacity is None else _holds(plan, capacity))
    )


def _holds(plan: Plan, capacity: Capacity) -> str:
    return f"{capacity.max_concurrent_trials(plan)} run at once where there is {capacity}"


def _memory_line(plan: Plan) -> str:
    name = plan.sweep.resources.gpu
    if name is not None:
        gpu = GPUS[name]
        fits = f"{name} has {gpu.gibibytes:g} GiB, of which {gib(gpu.usable_bytes)} are reckoned with: fits"
        return f"{ABOUT_MEMORY}; {fits}"
    unchecked = "; not held against any GPU: name yours as resources.gpu" if plan.gpus_per_trial else ""
    return ABOUT_MEMORY + unchecked


def _speed_lines(plan: Plan) -> list[str]:
    """Where samples/s are from: for each rate that is assumed, one line."""
    rates = dict.fromkeys(assumed_tflops(plan, trial) for trial in plan.trials)
    return [f"samples/s: the step's counted operations at {_rate(plan, rate)}" for rate in rates]


def _rate(plan: Plan, rate: float) -> str:
    if plan.sweep.budget.assumed_tflops is not None:
        return f"budget.assumed_tflops, {rate:g} TFLOP/s a worker: assumed, not measured"
    if not plan.gpus_per_trial:
        return f"{rate:g} TFLOP/s a worker: assumed, not measured"
    name = plan.sweep.resources.gpu or UNNAMED
    share = f"{ASSUMED_SHARE:.0%} of the peak of {name}"
    return f"{share}, {rate:.0f} TFLOP/s a worker: assumed, not measured on a GPU"


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
    total = total_hours(plan)
    full = "" if total is None else f" and about {total * len(arms):.2f} h"
    this = "" if total is None else f" and about {total:.2f} h"
    return [
        f"infer: each student is drawn at {len(arms)} strengths (none; {kinds}), {pictures} pictures each: "
        f"{trainings * len(arms)} small trials of {DRIVER_CPUS:g} CPU and {infer.gpus:g} GPU",
        f"trainings: {trainings}{this}; the full grid of settings and strengths would be "
        f"{trainings * len(arms)} trainings{full}",
    ]


def _total_line(plan: Plan) -> str:
    total = total_hours(plan)
    if total is None:
        return "time: unknown, as nothing is known of a backbone that is not in the local cache"
    text = f"the sweep: about {total:.2f} h of trials"
    if plan.gpus_per_trial:
        text += f", {total * plan.gpus_per_trial:.0f} GPU-hours"
        price = plan.sweep.budget.price_per_gpu_hour
        text += f", {_price(plan, total):,.0f} at {price:g} a GPU-hour" if price is not None else ""
    return text
