"""The trials of a sweep: `make_plan` expands swept values into them, after all checks of the file."""

import itertools
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.common.digests import digest
from orchestrator.config.gpu_sharing import holders
from orchestrator.config.ranking import RANKING_METRICS
from orchestrator.config.renamed_settings import in_old_form
from orchestrator.config.schema import BackboneEntry, LoraEntry, Range, Sweep, TrainValues, Values, draw
from orchestrator.config.sweep_file import SweepFile
from orchestrator.planning.checks import check_prompts, check_sizes, check_weights
from orchestrator.planning.inference import InferencePlan, InferenceTrial, make_inference_plan
from workloads.backbones.loras.entry import Lora, TeacherSource
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.settings.train import TrainSettings

DRIVER_CPUS = 0.15
"""CPUs of a trial's process, which supervises a training or samples with a student.

The same for both, because Tune then passes a process, its imports done, from one to the next.
"""
MINIATURE = "miniature/"


@dataclass(frozen=True)
class Trial:
    """One training: a backbone and its settings. Its digest identifies it everywhere."""

    backbone: BackboneEntry
    source: str
    """Folder or hub id that the backbone's `model` resolves to."""
    train: TrainSettings
    prompts: str
    """Source and column of the prompts, which are part of the identity."""
    arm: str = ""
    """Name of its arm, which is not part of the identity; empty if the file names no arms."""
    loras: tuple[Lora, ...] = ()
    """LoRAs that are merged into the teacher, with the paths that the backbone's `loras` resolve to."""
    ignored: tuple[str, ...] = ()
    """Settings in the file that its objective does not have but another does."""

    @property
    def teacher(self) -> TeacherSource:
        """The pipeline with its LoRAs; trials of equal teachers share prompts and reference."""
        return TeacherSource(self.source, self.loras)

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines the training's result, as JSON values."""
        loras = [entry.model_dump(mode="json") for entry in self.backbone.loras]
        return {
            "model": self.backbone.model,
            # Only where there are some, so that other trials keep their digests.
            **({"loras": loras} if loras else {}),
            "start_timestep": self.backbone.start_timestep,
            "prompts": self.prompts,
            "train": self.train.identity,
        }

    @property
    def digest(self) -> str:
        return digest(self.identity)[:12]

    @property
    def interval(self) -> str:
        low, high = self.train.teacher_scales
        return f"{low:g}" if low == high else f"{low:g}-{high:g}"

    @property
    def name(self) -> str:
        """Readable name: backbone, arm (or objective, interval, student's steps), and digest."""
        if self.arm:
            return f"{self.backbone.name}-{self.arm}-s{self.train.seed}-{self.digest[:4]}"
        of = "" if self.train.objective == "pgsb" else f"-{self.train.objective}"
        steps = "" if self.train.student_steps == 1 else f"-{self.train.student_steps}steps"
        reads = "-reads" if self.train.read_scales else ""
        return f"{self.backbone.name}{of}{reads}-k{self.interval}{steps}-s{self.train.seed}-{self.digest[:4]}"


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, in the order of the file."""

    sweep: Sweep
    trials: tuple[Trial, ...]
    infer: InferencePlan | None
    """Plan of the second search; None if the file has no section `infer`."""

    def infer_trials(self, trial: Trial) -> tuple[InferenceTrial, ...]:
        """Return the second search of one trial's student, the plain student first.

        Kernels that are not defined for the backbone's attention are left out.
        """
        if self.infer is None:
            return ()
        reads_scale = trial.train.read_scales is not None
        return self.infer.trials(trial.digest, trial.name, trial.source, reads_scale)

    @property
    def digest(self) -> str:
        """Digest of the resolved file, by which a launch is named."""
        # A setting that was added later counts only where it is used, so that launches keep their digests.
        unused = {"storage", "tracking"} | (set() if self.sweep.arms else {"arms"})
        resolved = self.sweep.model_dump(mode="json", exclude=unused)
        resolved["search"]["metric"] = self.sweep.search.metric or RANKING_METRICS[0]
        for backbone in resolved["backbones"]:
            if not backbone["loras"]:
                del backbone["loras"]
        if resolved["infer"] is not None and resolved["infer"]["guidance_scale"] is None:
            del resolved["infer"]["guidance_scale"]
        return digest(in_old_form(resolved))[:12]

    @property
    def trains_with_negatives(self) -> bool:
        """True if any trial is NASA-T."""
        return any(trial.train.trains_with_negatives for trial in self.trials)

    @property
    def cpus_per_trial(self) -> float:
        return DRIVER_CPUS + self.sweep.resources.workers * self.sweep.resources.cpus_per_worker

    @property
    def gpus_per_trial(self) -> float:
        return self.sweep.resources.workers * self.sweep.resources.gpus_per_worker


def describe_loras(backbone: BackboneEntry) -> str:
    """Return the LoRAs of a teacher as text, each with its weight; empty if it has none."""
    return ", ".join(map(describe_lora, backbone.loras))


def describe_lora(entry: LoraEntry) -> str:
    """Return a LoRA of a teacher as text, with its weight."""
    return f"{entry.path} x {entry.weight:g}"


def max_concurrent_inference_trials(plan: Plan, cpus: float, gpus: float, trainings: int) -> int:
    """Return how many inference trials run beside this number of trainings; at least one.

    With GPUs one more than they hold, so that Tune always has a trial to pass a finished one's process
    to. On CPUs at most the number of cores, less the request of trainings and of one scorer: an inference
    trial is a process that computes as long as it lives, however little it requests.
    """
    assert plan.infer is not None
    infer = plan.infer.infer
    if infer.gpus:
        return 1 + holders(gpus, infer.gpus)
    free = cpus - trainings * plan.cpus_per_trial - DRIVER_CPUS
    return max(1, min(int(cpus), int(free / DRIVER_CPUS + 1e-6)))


def make_plan(file: SweepFile) -> Plan:
    """Expand the swept values of `file` into trials.

    Raises:
        UserError: a setting of a trial is wrong; two trials are the same, or there are too many;
            a local file that the sweep reads does not exist.
    """
    sweep = file.sweep
    infer = make_inference_plan(file)
    arms: list[int | None] = [*range(len(sweep.arms))] or [None]
    places = [(index, arm) for index in range(len(sweep.backbones)) for arm in arms]
    swept = {place: _swept(file, *place) for place in places}
    students = len(infer.arms) * max(1, len(infer.scales)) if infer else 0
    check_sizes(file, [_count(sweep, *each) for each in swept.values()], students)
    check_prompts(file)
    check_weights(file)
    trials = []
    for index, arm in places:
        backbone, source = sweep.backbones[index], _source(file, index)
        name = "" if arm is None else sweep.arms[arm].name
        for values in _points(file, index, arm, *swept[index, arm]):
            settings = file.train_settings(values, index, arm)
            prompts, ignored = _check_trial(file, settings), file.resolve(values, index, arm).ignored
            trials.append(Trial(backbone, source, settings, prompts, name, _loras(backbone), ignored))
    _check_duplicates(file, trials)
    if infer is not None:
        _check_scales(file, infer, trials)
    return Plan(sweep, tuple(trials), infer)


def _check_trial(file: SweepFile, settings: TrainSettings) -> str:
    """Check a trial's settings against the file's other sections; return its prompts for its identity."""
    sweep = file.sweep
    if settings.batch_size % sweep.resources.workers:
        message = f"{settings.batch_size} is not divisible by the {sweep.resources.workers} resources.workers"
        raise file.error(("train", "batch_size"), message)
    prompts = f"{sweep.prompts.source}:{sweep.prompts.column}"
    if not settings.trains_with_negatives:
        return prompts
    if sweep.negative_prompts is None:
        message = "NASA-T needs negative prompts: add a section negative_prompts"
        raise file.error(("train", "nasa_interval"), message)
    return f"{prompts} against {sweep.negative_prompts.source}:{sweep.negative_prompts.column}"


def _check_scales(file: SweepFile, infer: InferencePlan, trials: Sequence[Trial]) -> None:
    """Check that students read the guidance scales at which the second search draws them."""
    reading = [(trial, trial.train.read_scales) for trial in trials if trial.train.read_scales]
    if infer.scales and not reading:
        message = "no student reads its guidance scale: set train.guidance_input, or leave the scales out"
        raise file.error(("infer", "guidance_scale"), message)
    for trial, (low, high) in reading:
        for scale in infer.scales:
            if not low <= scale <= high:
                message = f"{scale:g} is outside of the interval {trial.interval} of {trial.name}"
                raise file.error(("infer", "guidance_scale", "values"), message)


def _check_duplicates(file: SweepFile, trials: Sequence[Trial]) -> None:
    seen: dict[str, Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.digest, trial)
        if other is not trial:
            section, and_other = ("arms", f" and {other.name}") if trial.arm else ("backbones", "")
            raise file.error((section,), f"two trials are the same: {trial.name}{and_other}")


def _source(file: SweepFile, index: int) -> str:
    model = file.sweep.backbones[index].model
    if not model.startswith(MINIATURE):
        return _real(model)
    name = model.removeprefix(MINIATURE)
    if name not in TEACHERS:
        known = ", ".join(MINIATURE + teacher for teacher in TEACHERS)
        raise file.error(("backbones", index, "model"), f"no {model!r}: choose one of {known}")
    return str(WEIGHTS / name)


def _loras(backbone: BackboneEntry) -> tuple[Lora, ...]:
    return tuple(Lora(_real(entry.path), entry.weight) for entry in backbone.loras)


def _real(path: str) -> str:
    """Return the real path of a file or folder, and anything else, such as a hub id, as it is."""
    return os.path.realpath(path) if os.path.exists(path) else path


Grid = dict[str, list[Any]]
Ranges = dict[str, Range]


def _swept(file: SweepFile, index: int, arm: int | None) -> tuple[Grid, Ranges]:
    """Return the swept settings of one backbone and arm."""
    grid: Grid = {}
    ranges: Ranges = {}
    for key, value in file.train(index, arm).items():
        kind = file.swept(value, file.train_key_path(index, arm, (key,)))
        if isinstance(kind, Values):
            grid[key] = kind.values
        elif isinstance(kind, Range):
            ranges[key] = kind
    return grid, ranges


def _count(sweep: Sweep, grid: Grid, ranges: Ranges) -> int:
    """Return the number of trials that these settings make."""
    return math.prod(map(len, grid.values())) * (sweep.search.samples if ranges else 1)


def _points(
    file: SweepFile, index: int, arm: int | None, grid: Grid, ranges: Ranges
) -> Iterator[TrainValues]:
    """Yield the settings of each trial of one backbone and arm: the grid, times the draws."""
    sweep, merged = file.sweep, file.train(index, arm)
    rng = random.Random(f"{sweep.search.seed}/{sweep.backbones[index].name}")
    draws = [
        {key: draw(spread, rng.random()) for key, spread in ranges.items()}
        for _ in range(sweep.search.samples if ranges else 1)
    ]
    for combination in itertools.product(*grid.values()):
        for drawn in draws:
            yield {**merged, **dict(zip(grid, combination, strict=True)), **drawn}
