"""Memory, time and cost of each trial of a plan, before anything is started or opened.

Memory and operations come from a step on tensors without content (`memory_estimate`), run once for
each backbone, batch and `StepSettings`; time, from these operations at an assumed rate.
"""

from dataclasses import dataclass, replace
from typing import Any

from orchestrator.common.errors import UserError
from orchestrator.config.gpu_sharing import one_nth, sharers
from orchestrator.config.gpu_specs import DEFAULT_GPU, GPUS, Gpu
from orchestrator.planning.plan import Plan, Trial
from workloads.backbones.architectures import Architecture, architecture_of
from workloads.settings.train import StepSettings, TrainSettings

ASSUMED_CPU_TFLOPS = 0.02
"""Rate of one worker on half a CPU: the order of magnitude that miniatures reach."""
SECONDS_TO_START = 30
"""Seconds before a trial's first step: processes, imports, engines."""

Change = dict[str, Any]
LIGHTEST: Change = {"activation_checkpointing": True, "score_batch": "prediction"}
LIGHTER: tuple[Change, ...] = ({"score_batch": "prediction"}, {"activation_checkpointing": True}, LIGHTEST)
"""Changes of `StepSettings` that save memory, those that cost least time first."""


@dataclass(frozen=True)
class Needs:
    """Requirements of a trial's first worker, which needs most."""

    bytes: int
    """Peak memory."""
    peak_is_sampling: bool
    """True if memory peaks while sampling images, not in a training step."""
    tflop: float
    """10^12 operations of one step."""


@dataclass(frozen=True)
class Estimate:
    """Memory, speed and time of one trial."""

    needs: Needs
    samples_per_second: float
    """Rate of all workers together."""
    hours: float


def estimate(plan: Plan, trial: Trial) -> Estimate | None:
    """Return memory, speed and time of a trial; None if the config of its network is unknown."""
    needs = worker_needs(plan, trial)
    if needs is None:
        return None
    seconds = needs.tflop / assumed_tflops(plan, trial)
    hours = (SECONDS_TO_START + seconds * trial.train.steps) / 3600
    return Estimate(needs, trial.train.batch_size / seconds, hours)


def assumed_tflops(plan: Plan, trial: Trial) -> float:
    """Return the rate that a worker is assumed to sustain, in 10^12 operations per second.

    Of a share of a GPU it is that share: workers on one GPU take turns.
    """
    if plan.sweep.budget.assumed_tflops is not None:
        return plan.sweep.budget.assumed_tflops
    if not plan.gpus_per_trial:
        return ASSUMED_CPU_TFLOPS
    gpu = GPUS[plan.sweep.resources.gpu or DEFAULT_GPU]
    return plan.sweep.resources.gpus_per_worker * gpu.assumed_tflops(_half(plan, trial))


def worker_needs(
    plan: Plan, trial: Trial, rows: int | None = None, step: StepSettings | None = None
) -> Needs | None:
    """Return the requirements of the trial's first worker; None if the config of its network is unknown.

    `rows` (samples per worker) and `step` replace those of the plan.
    """
    architecture = architecture_of(trial.source)
    if architecture is None:
        return None
    workers = plan.sweep.resources.workers
    train = trial.train if rows is None else replace(trial.train, batch_size=rows * workers)
    return _measured(architecture, train, plan, _half(plan, trial), step or plan.sweep.resources.step)


def _measured(
    architecture: Architecture, train: TrainSettings, plan: Plan, half: bool, step: StepSettings
) -> Needs | None:
    # Importing torch and diffusers takes seconds.
    from orchestrator.planning.zero_memory import Zero2
    from workloads.training.memory_estimate import StepTask, step_needs

    evaluate, workers = plan.sweep.evaluate, plan.sweep.resources.workers
    task = StepTask(
        architecture,
        # Of a setting that changes no shape, all values are one task.
        train.cost_settings,
        train.batch_size // workers,
        half,
        step,
        Zero2(workers, buckets=2 if plan.gpus_per_trial else 1),
        max(len(evaluate.sheet_prompts), evaluate.samples if evaluate.scorers else 0),
    )
    try:
        needs = step_needs(task)
    except Exception:  # any error of the libraries for a user's config; `backbone_checks` reports it
        return None
    return Needs(needs.peak, needs.sampling > needs.step, needs.operations / 1e12)


def pair_tflop(plan: Plan, trial: Trial) -> float | None:
    """Return the operations of one teacher pair of a trial that reads some, in 10^12.

    None if the config of its network is unknown, or no call of it can be counted.
    """
    pairs, architecture = trial.train.teacher_pairs, architecture_of(trial.source)
    if pairs is None or architecture is None:
        return None
    from workloads.training.memory_estimate import call_operations  # torch and diffusers: seconds

    calls = pairs.steps * (1 if pairs.guidance_scale == 1 else 2)
    try:
        return calls * call_operations(architecture, _half(plan, trial)) / 1e12
    except Exception:  # as in `_measured`
        return None


def _half(plan: Plan, trial: Trial) -> bool:
    precision = trial.train.precision
    return precision == "bf16" or (precision == "auto" and plan.gpus_per_trial > 0)


def total_hours(plan: Plan) -> float | None:
    """Return the hours of all trials, one after the other; None if any trial's time is unknown."""
    hours = [None if guess is None else guess.hours for guess in (estimate(plan, t) for t in plan.trials)]
    known = [each for each in hours if each is not None]
    return sum(known) if len(known) == len(hours) else None


def check_budget(plan: Plan) -> None:
    """Refuse a sweep whose estimate is above its own budget.

    Raises:
        UserError: names both figures.
    """
    limit = plan.sweep.budget.max_gpu_hours
    hours = None if limit is None else total_hours(plan)
    if limit is None or hours is None:
        return
    hours *= plan.gpus_per_trial
    if hours > limit:
        raise UserError(
            f"sweep {plan.sweep.name}: about {amount(hours)} GPU-hours, above budget.max_gpu_hours "
            f"{limit:g}: run fewer trials or steps, or raise the budget"
        )


def check_memory(plan: Plan) -> None:
    """Refuse a sweep in which a worker needs more memory than the GPU that `resources.gpu` names.

    Raises:
        UserError: names both figures, and settings that fit.
    """
    name = plan.sweep.resources.gpu
    if name is None:
        return
    gpu = GPUS[name]
    for trial in plan.trials:
        needs = worker_needs(plan, trial)
        if needs is not None and needs.bytes > usable_bytes(plan, gpu):
            raise UserError(_too_large(plan, trial, needs, name))


def _too_large(plan: Plan, trial: Trial, needs: Needs, name: str) -> str:
    gpu = GPUS[name]
    return (
        f"trial {trial.name}: a worker needs {gib(needs.bytes)} GiB"
        f"{' to sample images' if needs.peak_is_sampling else ''}, but of {name}'s {gpu.gibibytes:g} "
        f"GiB only {gib(usable_bytes(plan, gpu))} GiB are usable{sharing(plan)}; "
        f"{suggestion(plan, trial, gpu)}"
    )


def usable_bytes(plan: Plan, gpu: Gpu) -> float:
    """Return the memory that each worker of the plan can use on `gpu`."""
    return gpu.usable_bytes(plan.sweep.resources.gpus_per_worker)


def sharing(plan: Plan) -> str:
    """Return text that says how many workers share a GPU; empty if each has a whole one, or none."""
    share = plan.sweep.resources.gpus_per_worker
    return f" by each of the {sharers(share)} workers that share it" if 0 < share < 1 else ""


def suggestion(plan: Plan, trial: Trial, gpu: Gpu) -> str:
    """Return text that names the settings with which the trial's workers fit `gpu`."""
    now = plan.sweep.resources.step
    least = replace(now, **LIGHTEST)
    changes = (
        _lighter_step(plan, trial, gpu),
        _smaller_batch(plan, trial, gpu, now),
        _larger_share(plan, trial, gpu),
    )
    if any(changes):
        return ", or ".join(f"{change} fits" for change in changes if change)
    if both := _smaller_batch(plan, trial, gpu, least):
        return f"{_step_text(LIGHTEST)} with {both} fits"
    needs = worker_needs(plan, trial, rows=1, step=least)
    peak = "sampling images" if needs is not None and needs.peak_is_sampling else "one sample per worker"
    return f"{peak} does not fit with any resources.step or batch: choose a larger GPU, or more workers"


def _lighter_step(plan: Plan, trial: Trial, gpu: Gpu) -> str | None:
    """Return the first change of `StepSettings` that fits at the same batch; None if none does."""
    now = plan.sweep.resources.step
    for change in LIGHTER:
        step = replace(now, **change)
        needs = None if step == now else worker_needs(plan, trial, step=step)
        if needs is not None and needs.bytes <= usable_bytes(plan, gpu):
            return f"{_step_text(change)} ({gib(needs.bytes)} GiB)"
    return None


def _smaller_batch(plan: Plan, trial: Trial, gpu: Gpu, step: StepSettings) -> str | None:
    """Return a smaller batch that fits, interpolated between one sample and all; None if one does not fit.

    A step's peak is the largest of its phases, each linear in the batch, so it is convex in the batch: no
    batch between those two lies above the line through them.
    """
    workers = plan.sweep.resources.workers
    rows = trial.train.batch_size // workers
    usable = usable_bytes(plan, gpu)
    every, one = worker_needs(plan, trial, step=step), worker_needs(plan, trial, rows=1, step=step)
    if every is None or one is None or one.bytes > usable or every.bytes <= usable:
        return None
    each = (every.bytes - one.bytes) / (rows - 1)
    fits = 1 + int((usable - one.bytes) / each)
    return f"train.batch_size {fits * workers}"


def _larger_share(plan: Plan, trial: Trial, gpu: Gpu) -> str | None:
    """Return the smallest share of `gpu` that fits where its workers share it; None if none does."""
    needs = worker_needs(plan, trial)
    shares = map(one_nth, range(1, sharers(plan.sweep.resources.gpus_per_worker)))
    fits = [share for share in shares if needs is not None and needs.bytes <= gpu.usable_bytes(share)]
    return f"resources.gpus_per_worker {min(fits):g}" if fits else None


def _step_text(change: Change) -> str:
    return f"resources.step {{{', '.join(f'{key}: {str(value).lower()}' for key, value in change.items())}}}"


def gib(count: float) -> str:
    """Format bytes as gibibytes."""
    return f"{count / 2**30:.1f}" if count >= 2**30 else f"{count / 2**30:.2f}"


def amount(count: float) -> str:
    """Format GPU-hours, or their price: whole numbers, or three digits of less than ten."""
    return f"{count:,.0f}" if count >= 10 else f"{count:.3g}"
