"""The text of `--plan`: trials, the resources that they request, memory, time and cost."""

from dataclasses import replace

from orchestrator.config.gpu_specs import ASSUMED_SHARE, DEFAULT_GPU, GPUS
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.estimate import (
    amount,
    assumed_tflops,
    estimate,
    gib,
    pair_tflop,
    sharing,
    total_hours,
    usable_bytes,
    worker_needs,
)
from orchestrator.planning.plan import DRIVER_CPUS, Plan, Trial, describe_loras
from workloads.settings.train import LoraSettings

ABOUT_MEMORY = (
    "memory: peak of a trial's first worker, which also samples images; counted in a step on tensors "
    "without content, with fused attention"
)


def describe_plan(plan: Plan, storage: str, tracking: str, capacity: Capacity | None = None) -> str:
    """Return the plan as text: a table of trials, then totals, storage and tracking.

    `capacity` is the cluster's, if the user has described it.
    """
    sweep = plan.sweep
    lines = [
        f"sweep {sweep.name}: {len(plan.trials)} trials on {len(sweep.backbones)} backbones"
        + (f" in {len(sweep.arms)} arms" if sweep.arms else "")
        + f", launch {plan.digest}",
        *_table(plan),
        *_lora_lines(plan),
        *_unused_lines(plan),
        *_pair_lines(plan),
        _resources_line(plan, capacity),
        _memory_line(plan),
        *_adapter_lines(plan),
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
    calls = any(trial.train.student_steps > 1 for trial in plan.trials)
    rows = [_row(plan, trial, width, price) + _calls(trial, calls) for trial in plan.trials]
    return [head + ("    cost" if price else "") + ("  calls" if calls else ""), *rows]


def _row(plan: Plan, trial: Trial, width: int, price: bool) -> str:
    guess, train = estimate(plan, trial), trial.train
    row = (
        f"{trial.name:<{width}}  {trial.interval:>8}  {train.seed:>4}  {train.steps:>6}  "
        f"{train.batch_size:>5}  "
    )
    if guess is None:
        return row + f"{'?':>10}  {'?':>9}  {'?':>5}" + (f"  {'?':>6}" if price else "")
    row += f"{gib(guess.needs.bytes):>10}  {guess.samples_per_second:>9.1f}  {guess.hours:>5.2f}"
    return row + (f"  {amount(_price(plan, guess.hours)):>6}" if price else "")


def _calls(trial: Trial, shown: bool) -> str:
    """Return the column of network calls in which a student draws, if any student takes several."""
    return f"  {trial.train.student_steps:>5}" if shown else ""


def _price(plan: Plan, hours: float) -> float:
    return hours * plan.gpus_per_trial * (plan.sweep.budget.price_per_gpu_hour or 0)


def _lora_lines(plan: Plan) -> list[str]:
    """Return a line for each backbone with LoRAs."""
    return [
        f"backbone {entry.name}: the teacher is {entry.model} with {describe_loras(entry)}"
        for entry in plan.sweep.backbones
        if entry.loras
    ]


def _unused_lines(plan: Plan) -> list[str]:
    """Return a line per objective with the settings that it ignores: sweeping one of these repeats the same
    training."""
    unused = dict.fromkeys((trial.train.objective, name) for trial in plan.trials for name in trial.ignored)
    objectives = dict.fromkeys(objective for objective, _ in unused)
    return [
        f"objective {objective} ignores {', '.join(name for of, name in unused if of == objective)}"
        for objective in objectives
    ]


def _pair_lines(plan: Plan) -> list[str]:
    """Return a line for each set of teacher pairs, with the time of making it at the assumed rate."""
    made: dict[object, tuple[Trial, list[str]]] = {}
    for trial in plan.trials:
        if trial.train.teacher_pairs is not None:
            made.setdefault((trial.teacher, trial.train.teacher_pairs), (trial, []))[1].append(trial.name)
    return [_pair_line(plan, trial, len(names)) for trial, names in made.values()]


def _pair_line(plan: Plan, trial: Trial, trainings: int) -> str:
    pairs = trial.train.teacher_pairs
    assert pairs is not None
    text = (
        f"teacher pairs: {trial.backbone.model} draws one for each prompt in {pairs.steps} steps at guidance "
        f"scale {pairs.guidance_scale:g}, once for {trainings} trainings"
    )
    tflop = pair_tflop(plan, trial)
    if tflop is None:
        return text
    hours = 1000 * tflop / assumed_tflops(plan, trial) / 3600
    return f"{text}; about {hours:.2g} h for 1,000 prompts"


def _resources_line(plan: Plan, capacity: Capacity | None) -> str:
    resources = plan.sweep.resources
    requested = f"{plan.cpus_per_trial:g} CPUs" + (
        f" and {plan.gpus_per_trial:g} GPUs" if plan.gpus_per_trial else " and no GPU"
    )
    return (
        f"each trial requests {requested} ({resources.workers} workers of {resources.cpus_per_worker:g} "
        f"CPU and {resources.gpus_per_worker:g} GPU, and {DRIVER_CPUS:g} CPU "
        f"for its driver); "
        + ("as many run at once as the cluster holds" if capacity is None else _concurrency(plan, capacity))
    )


def _concurrency(plan: Plan, capacity: Capacity) -> str:
    return f"{capacity.max_concurrent_trials(plan)} run at once on {capacity}"


def _memory_line(plan: Plan) -> str:
    name = plan.sweep.resources.gpu
    if name is not None:
        gpu = GPUS[name]
        fits = f"{name} has {gpu.gibibytes:g} GiB, {gib(usable_bytes(plan, gpu))} GiB of them usable"
        return f"{ABOUT_MEMORY}; {fits}{sharing(plan)}: fits"
    unchecked = "; not checked against a GPU: set resources.gpu" if plan.gpus_per_trial else ""
    return ABOUT_MEMORY + unchecked


def _adapter_lines(plan: Plan) -> list[str]:
    """Return a line that compares the memory of whole students and of adapters, where it is a GPU's."""
    if not plan.gpus_per_trial:
        return []
    first = {trial.backbone.name: trial for trial in reversed(plan.trials)}
    backbones = [f"{name} {_either(plan, first[name])}" for name in dict.fromkeys(reversed(first))]
    return [f"memory of a whole student, or of adapters (train.student_lora) in GiB: {'; '.join(backbones)}"]


def _either(plan: Plan, trial: Trial) -> str:
    """Return the memory of a trial's worker with a whole student and with adapters, as text."""
    adapters = trial.train.student_lora or LoraSettings()
    trainings = (replace(trial.train, student_lora=each) for each in (None, adapters))
    both = [worker_needs(plan, replace(trial, train=train)) for train in trainings]
    return ", or ".join("?" if needs is None else gib(needs.bytes) for needs in both)


def _speed_lines(plan: Plan) -> list[str]:
    """Return a line for each assumed rate behind the column samples/s."""
    rates = dict.fromkeys(assumed_tflops(plan, trial) for trial in plan.trials)
    return [f"samples/s: counted operations of a step at {_rate(plan, rate)}" for rate in rates]


def _rate(plan: Plan, rate: float) -> str:
    if plan.sweep.budget.assumed_tflops is not None:
        return f"budget.assumed_tflops, {rate:g} TFLOP/s per worker: assumed, not measured"
    if not plan.gpus_per_trial:
        return f"{rate:g} TFLOP/s per worker: assumed, not measured"
    name = plan.sweep.resources.gpu or DEFAULT_GPU
    share = f"{ASSUMED_SHARE:.0%} of the peak of {name}"
    if plan.gpus_per_trial < 1:
        share = f"{plan.gpus_per_trial:g} of {share}"
    return f"{share}, {rate:.3g} TFLOP/s per worker: assumed, not measured on a GPU"


def _infer_lines(plan: Plan) -> list[str]:
    """Return the size of the second search, and of the grid that trains for every strength instead."""
    if plan.infer is None:
        return []
    infer, arms, trainings = plan.infer.infer, plan.infer.arms, len(plan.trials)
    lines = _scale_lines(plan)
    if not plan.infer.pairs:
        return lines
    count = sum(len(plan.infer_trials(trial)) for trial in plan.trials)
    tried: dict[str, list[str]] = {}
    for arm in arms[1:]:
        tried.setdefault(arm.label, []).append(f"{arm.strength:g}")
    kinds = "; ".join(f"{label} {', '.join(strengths)}" for label, strengths in tried.items())
    images = len(plan.infer.pairs) * infer.pictures
    total = total_hours(plan)
    full = "" if total is None else f" and about {total * len(arms):.2f} h"
    this = "" if total is None else f" and about {total:.2f} h"
    return [
        *lines,
        f"infer: each student is sampled at {len(arms)} strengths (none; {kinds}), {images} images each: "
        f"{count} inference trials of {DRIVER_CPUS:g} CPU and {infer.gpus:g} GPU",
        *_left_out_lines(plan),
        f"trainings: {trainings}{this}; the full grid of settings and strengths would be "
        f"{trainings * len(arms)} trainings{full}",
    ]


def _scale_lines(plan: Plan) -> list[str]:
    """Return what students that read their guidance scale save: a training for each scale."""
    assert plan.infer is not None
    scales, reading = plan.infer.scales, sum(trial.train.read_scales is not None for trial in plan.trials)
    if not scales:
        return []
    values = ", ".join(f"{scale:g}" for scale in scales)
    return [
        f"infer: {reading} students read their guidance scale and are scored at {len(scales)} scales "
        f"({values}): {reading} trainings, where students of one fixed scale take {reading * len(scales)}"
    ]


def _left_out_lines(plan: Plan) -> list[str]:
    """Return a line that names the backbones whose students are not sampled with every kernel."""
    assert plan.infer is not None
    every = {arm.kind for arm in plan.infer.arms}
    missing = {
        trial.backbone.name: every - {each.guidance.kind for each in plan.infer_trials(trial)}
        for trial in plan.trials
    }
    return [
        f"infer: {name} is sampled without {', '.join(sorted(kinds))}, not defined for its joint attention"
        for name, kinds in missing.items()
        if kinds
    ]


def _total_line(plan: Plan) -> str:
    total = total_hours(plan)
    if total is None:
        return "time: unknown, because the config of a backbone is not in the local cache"
    text = f"the sweep: about {total:.2f} h of trials"
    if plan.gpus_per_trial:
        text += f", {amount(total * plan.gpus_per_trial)} GPU-hours"
        price = plan.sweep.budget.price_per_gpu_hour
        text += f", {amount(_price(plan, total))} at {price:g} a GPU-hour" if price is not None else ""
    return text
