"""What a sweep will do, before it does it: its trials, what each asks for, time and cost."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.identity import digest
from orchestrator.infer import InferPlan, InferTrial, make_infer_plan
from orchestrator.sweep import BackboneEntry, Range, Sweep, Values, draw, swept
from orchestrator.sweep_file import SweepFile
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings import TrainSettings

DRIVER_CPUS = 0.15
"""Asked for by the process of a trial: one that watches over a training, or draws with a student.

The same for both, since Tune then hands a process, its imports done, from one to the next.
"""
MINIATURE = "miniature/"


@dataclass(frozen=True)
class Trial:
    """One training: a backbone and its settings. Its digest is its name everywhere."""

    backbone: BackboneEntry
    source: str
    """What the backbone's `model` stands for: a folder or a hub id."""
    train: TrainSettings
    prompts: str
    """The prompts' source and column, as they are part of what the training is."""

    @property
    def digest(self) -> str:
        identity = {
            "model": self.backbone.model,
            "start_timestep": self.backbone.start_timestep,
            "prompts": self.prompts,
            "train": asdict(self.train),
        }
        return digest(identity)[:12]

    @property
    def interval(self) -> str:
        low, high = self.train.guidance_interval
        return f"{low:g}" if low == high else f"{low:g}-{high:g}"

    @property
    def name(self) -> str:
        """For people: backbone, interval and seed, made unique by the digest's beginning."""
        return f"{self.backbone.name}-k{self.interval}-s{self.train.seed}-{self.digest[:4]}"


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, in the order of the file."""

    sweep: Sweep
    trials: tuple[Trial, ...]
    infer: InferPlan | None
    """What is tried on each student, if anything is."""

    def infer_trials(self, trial: Trial) -> tuple[InferTrial, ...]:
        """The second search of one trial's student, the plain student first."""
        if self.infer is None:
            return ()
        protocol = self.infer.digest
        return tuple(InferTrial(trial.digest, trial.name, arm, protocol) for arm in self.infer.arms)

    @property
    def digest(self) -> str:
        """Of the resolved file: the name of the launch."""
        return digest(self.sweep.model_dump(mode="json", exclude={"storage", "tracking"}))[:12]

    @property
    def trains_with_negatives(self) -> bool:
        """Whether any trial is NASA-T."""
        return any(trial.train.nasa_interval is not None for trial in self.trials)

    @property
    def cpus_per_trial(self) -> float:
        return DRIVER_CPUS + self.sweep.resources.workers * self.sweep.resources.cpus_per_worker

    @property
    def gpus_per_trial(self) -> int:
        return self.sweep.resources.workers * self.sweep.resources.gpus_per_worker

    def trials_at_once(self, cpus: float, gpus: float) -> int:
        """How many trials a cluster of this size holds; 0: not even one."""
        fits = int((cpus + 1e-6) / self.cpus_per_trial)
        if self.gpus_per_trial:
            fits = min(fits, int(gpus / self.gpus_per_trial))
        return min(fits, self.sweep.resources.trials_at_once or len(self.trials), len(self.trials))


def small_trials_at_once(plan: Plan, cpus: float, gpus: float, trainings: int) -> int:
    """How many trials of the second search run beside so many trainings; at least one.

    With GPUs one more than they hold, so that Tune always has one to hand a process on to. On
    CPUs no more than there are cores, less what trainings and one scorer ask for: a small trial
    is a process that works as long as it lives, however little it asks for.
    """
    assert plan.infer is not None
    infer = plan.infer.infer
    if infer.gpus:
        return 1 + int(gpus / infer.gpus)
    free = cpus - trainings * plan.cpus_per_trial - DRIVER_CPUS
    return max(1, min(int(cpus), int(free / DRIVER_CPUS + 1e-6)))


def make_plan(file: SweepFile) -> Plan:
    """Expands the swept values of `file` into trials.

    Raises:
        UserError: a setting of a trial is wrong; two trials are the same.
    """
    sweep = file.sweep
    trials = []
    for index, backbone in enumerate(sweep.backbones):
        source = _source(file, index)
        for values in _points(file, index):
            settings = file.train_settings(values, index)
            if settings.batch_size % sweep.resources.workers:
                message = f"{settings.batch_size} cannot be divided among {sweep.resources.workers} workers"
                raise file.error(("train", "batch_size"), message)
            prompts = f"{sweep.prompts.source}:{sweep.prompts.column}"
            if settings.nasa_interval is not None:
                if sweep.negative_prompts is None:
                    message = "NASA-T needs negative prompts: add a section negative_prompts"
                    raise file.error(("train", "nasa_interval"), message)
                negative = sweep.negative_prompts
                prompts += f" against {negative.source}:{negative.column}"
            trials.append(Trial(backbone, source, settings, prompts))
    seen: set[str] = set()
    for trial in trials:
        if trial.digest in seen:
            raise file.error(("backbones",), f"two trials are the same: {trial.name}")
        seen.add(trial.digest)
    return Plan(sweep, tuple(trials), make_infer_plan(file))


def _source(file: SweepFile, index: int) -> str:
    model = file.sweep.backbones[index].model
    if not model.startswith(MINIATURE):
        return str(Path(model).resolve()) if Path(model).exists() else model
    name = model.removeprefix(MINIATURE)
    if name not in TEACHERS:
        known = ", ".join(MINIATURE + teacher for teacher in TEACHERS)
        raise file.error(("backbones", index, "model"), f"no {model!r}; there are {known}")
    return str(WEIGHTS / name)


def _points(file: SweepFile, index: int) -> Iterator[dict[str, Any]]:
    """The settings of each trial of one backbone: the grid, times the draws."""
    sweep = file.sweep
    merged = {**sweep.train, **sweep.backbones[index].train}
    grid: dict[str, list[Any]] = {}
    ranges: dict[str, Range] = {}
    for key, value in merged.items():
        try:
            kind = swept(value)
        except ValidationError as error:
            raise file.error(("train", key), f"{error.errors()[0]['msg']}".lower()) from None
        if isinstance(kind, Values):
            grid[key] = kind.values
        elif isinstance(kind, Range):
            ranges[key] = kind
    rng = random.Random(f"{sweep.search.seed}/{sweep.backbones[index].name}")
    draws = [
        {key: draw(spread, rng.random()) for key, spread in ranges.items()}
        for _ in range(sweep.search.samples if ranges else 1)
    ]
    for combination in itertools.product(*grid.values()):
        for drawn in draws:
            yield {**merged, **dict(zip(grid, combination, strict=True)), **drawn}
