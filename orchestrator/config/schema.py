"""Schema of a sweep file, as strict pydantic models; `sweep_file` reads one.

A value under `train` may be swept: `{values: [...]}` tries each, `{min:, max:, distribution:}` draws
`search.samples` of them; see `planning.plan`. This module imports nothing slow, so that a mistake in a file
is reported at once.
"""

import math
import os.path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from orchestrator.config.base_model import Positive, Section, Seed, Text, validate
from orchestrator.config.evaluation_schema import Evaluate, Infer, RankingMetric
from orchestrator.config.gpu_specs import check_gpu, check_share, whole_as_integer
from orchestrator.config.ranking import RANKING_METRICS, first_measured
from workloads.settings.train import StepSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
RESERVED_NAMES = ("artifacts", "mlflow.db", "prompts", "references")
"""Names that the storage uses beside the folders of sweeps."""
TrainValues = dict[str, Any]
"""Settings of `workloads.settings.train.TrainSettings` by name; each may be swept."""


def _check_weight(weight: float) -> float:
    if weight == 0:
        raise ValueError(
            "is 0, with which the LoRA changes nothing: give another weight, or leave the LoRA out"
        )
    return weight


class Values(Section):
    """Values of a setting, each of which is tried."""

    values: Annotated[list[Any], Field(min_length=1)]


class Range(Section):
    """Range from which `search.samples` values of a setting are drawn."""

    min: float
    max: float
    distribution: Literal["uniform", "log_uniform", "integer"] = "uniform"

    @model_validator(mode="after")
    def _check_order(self) -> "Range":
        if self.min >= self.max or (self.distribution == "log_uniform" and self.min <= 0):
            raise ValueError("needs min < max (and min > 0 for log_uniform)")
        if self.distribution == "integer" and not (self.min.is_integer() and self.max.is_integer()):
            raise ValueError("needs whole numbers for min and max of distribution integer")
        return self


class Prompts(Section):
    """Prompts on which students are trained."""

    source: Text
    """A file or folder of .txt .jsonl .json .csv .tsv .parquet (local, s3://, gs://), or
    `miniature:N` for N captions of the miniature world."""
    column: Text | None = None
    """Column or key that holds the prompt; by default `prompt`, `caption` or `text`."""
    rows_per_shard: Positive = 512
    """Prompts in one file of embeddings."""


class LoraEntry(Section):
    """A LoRA that is merged into a teacher."""

    path: Annotated[Text, AfterValidator(os.path.expanduser)]
    """A safetensors file, its folder, or an id on the hub: `owner/name[@revision][:file]`."""
    weight: Annotated[float, AfterValidator(_check_weight)] = 1.0
    """Factor of its updates; negative ones take the style away."""


class BackboneEntry(Section):
    """A teacher, and the settings of its trials that differ from `train`."""

    name: Annotated[str, Field(pattern=NAME)]
    model: Annotated[Text, AfterValidator(os.path.expanduser)]
    """A diffusers folder, an id on the hub, or `miniature/NAME`."""
    loras: list[LoraEntry] = Field(default_factory=list)
    """LoRAs that are part of the teacher; its students need none of them."""
    start_timestep: Annotated[int, Field(gt=0, lt=1000)] | None = None
    """Timestep at which the student reads pure noise; by default the family's."""
    train: TrainValues = Field(default_factory=dict)
    """Settings that replace those of `train` for this backbone."""


class Arm(Section):
    """A named group of settings that belong together."""

    name: Annotated[str, Field(pattern=NAME)]
    train: TrainValues
    """Settings that replace those of `train` and of the backbone; each may be swept."""


class Search(Section):
    """Expansion of swept values to trials, and early stopping of trials."""

    samples: Positive = 1
    """Draws from each {min, max}; grid values multiply."""
    seed: Seed = 0
    """Seed of those draws."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: at each rung the worse trials stop, by `metric` (Li et al. 2020); none: every trial runs to its
    end."""
    metric: RankingMetric | None = None
    """Metric by which trials are ranked, higher is better; evaluate.scorers must measure it. By default the
    first that they measure of attribute_accuracy, hps_v2.1, hps_v2.0 and clip_plus."""
    grace: Annotated[float, Field(gt=0, le=1)] = 0.25
    """asha: share of its steps that every trial may take."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha: one of this many trials passes a rung."""


class Resources(Section):
    """Cluster resources of one trial, and how its failures are handled."""

    workers: Positive = 1
    """Training processes of a trial; batch_size is divided among them."""
    gpus_per_worker: Annotated[
        float,
        Field(ge=0, le=1),
        AfterValidator(check_share),
        PlainSerializer(whole_as_integer, return_type=int | float),
    ] = 0
    """0: trains on CPUs; 1: on a GPU. For more GPUs, more workers. 0.5, 0.3333, 0.25, ...: a worker shares
    its GPU with those of other trials, and has that share of its memory and, as is assumed, of its time."""
    gpu: Annotated[str, AfterValidator(check_gpu)] | None = None
    """Kind of GPU, with which `--plan` estimates time; a sweep that cannot fit it is refused."""
    step: StepSettings = StepSettings()
    """Memory and speed of a step; results differ by rounding alone."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.7
    """Logical CPUs; leave 0.3 of a CPU per trial for its driver and for inference trials."""
    max_concurrent_trials: Positive | None = None
    """By default as many as the cluster can hold."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts of a trial's worker group from its last checkpoint."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints: the most that an interruption can cost."""
    keep_checkpoints: Positive = 2
    """Number of newest checkpoints that are kept, beside the one whose student scored best."""
    hang_timeout_s: Annotated[float, Field(gt=0)] = 900
    """Seconds without a finished step after which a training is restarted from its last checkpoint; the
    first step after a start may always take two minutes."""

    @model_validator(mode="after")
    def _check_gpu_is_used(self) -> "Resources":
        if self.gpu is not None and not self.gpus_per_worker:
            raise ValueError(
                f"gpu is {self.gpu!r} but gpus_per_worker is 0: set gpus_per_worker, or leave gpu out"
            )
        return self

    @model_validator(mode="after")
    def _check_sharing(self) -> "Resources":
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker is {self.gpus_per_worker:g} with {self.workers} workers, and NCCL refuses "
                f"two workers on one GPU: set resources.workers=1, or gpus_per_worker=1"
            )
        return self


class Tracking(Section):
    """Store of the recorded runs."""

    uri: Text | None = None
    """MLflow server, or a database unless the storage is a bucket; by default SQLite in the storage."""


class Budget(Section):
    """Limit on a sweep's cost; checked against the plan's estimate before anything starts."""

    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    assumed_tflops: Annotated[float, Field(gt=0)] | None = None
    """TFLOP/s that one worker is assumed to sustain, for the estimate of time; by default 30 % of the
    peak of `resources.gpu`."""
    no_progress_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of the search in which no trial anywhere reports anything, also while nodes come, after which
    the launch ends; by default it waits without end. Nodes that start and fail again cost money, and
    `max_gpu_hours` does not count them."""


class Sweep(Section):
    """A whole sweep file."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the MLflow experiment and of the folder in the storage."""
    prompts: Prompts
    negative_prompts: Prompts | None = None
    """For NASA-T (train.nasa_interval): negative prompts with which students are trained."""
    backbones: Annotated[list[BackboneEntry], Field(min_length=1)]
    train: TrainValues = Field(default_factory=dict)
    """Settings of all trainings."""
    arms: list[Arm] = Field(default_factory=list)
    """Named groups of settings that are compared where one swept setting does not suffice; each is tried on
    every backbone."""
    evaluate: Evaluate
    infer: Infer | None = None
    """The second search: negative prompts, on every student."""
    search: Search = Search()
    resources: Resources = Resources()
    storage: Text | None = None
    """Folder or bucket; everything of the sweep is below STORAGE/NAME. By default the variable
    ORCHESTRATOR_STORAGE, else the folder `results`."""
    tracking: Tracking = Tracking()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _check_names(self) -> "Sweep":
        if self.name in RESERVED_NAMES:
            raise ValueError(f"name is {self.name!r}, which is reserved in the storage: choose another")
        for section in ("backbones", "arms"):
            names = [entry.name for entry in getattr(self, section)]
            if len(set(names)) < len(names):
                raise ValueError(f"{section} have a duplicate name: {sorted(names)}")
        return self

    @model_validator(mode="after")
    def _check_metric(self) -> "Sweep":
        metric = self.search.metric
        if metric is not None and metric not in self.evaluate.ranking_metrics:
            raise ValueError(
                f"search.metric is {metric}, which none of evaluate.scorers measures: add its scorer there, "
                f"or choose another search.metric"
            )
        if self.search.scheduler == "asha" and self.ranked_by is None:
            raise ValueError(
                "search.scheduler asha ranks by a score, and evaluate.scorers measures none to rank by: "
                "add attributes, hpsv2 or clip there"
            )
        return self

    @property
    def ranked_by(self) -> str | None:
        """Metric by which trials, a trial's checkpoints and students are ranked; None if none is measured."""
        return self.search.metric or first_measured(RANKING_METRICS, self.evaluate.ranking_metrics)


def swept(value: Any) -> Values | Range | None:
    """Return `value` as `Values` or `Range` if it is swept, None if it is a plain setting.

    Raises:
        ValidationError: it has a key of a swept value and is not well formed.
    """
    if not isinstance(value, dict):
        return None
    if "values" in value:
        return validate(Values, value)
    if "min" in value or "max" in value:
        return validate(Range, value)
    return None


def draw(spread: Range, uniform: float) -> float | int:
    """Return the value of `spread` at quantile `uniform` in [0, 1)."""
    if spread.distribution == "log_uniform":
        low, high = math.log(spread.min), math.log(spread.max)
        return math.exp(low + (high - low) * uniform)
    if spread.distribution == "integer":
        return math.floor(spread.min + (spread.max - spread.min + 1) * uniform)
    return spread.min + (spread.max - spread.min) * uniform
