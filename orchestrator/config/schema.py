"""The words of a sweep file, typed and strict; `sweep_file` reads one.

A value under `train` may be swept: `{values: [...]}` tries each, `{min:, max:, distribution:}` draws
`search.samples` of them; see `plan`. Nothing here is slow to import, so that a mistake is told at once.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from orchestrator.config.base_model import Positive, Seed, Strict, Text
from orchestrator.config.evaluation_schema import Evaluate, Headline, Infer
from orchestrator.config.gpu_specs import GPUS
from orchestrator.config.ranking import HEADLINES, first_of
from workloads.settings.train import StepSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
RESERVED = ("artifacts", "mlflow.db", "prompts", "references")
"""What lies in the storage beside the sweeps."""


def _known_gpu(name: str) -> str:
    if name not in GPUS:
        raise ValueError(f"is {name!r}, and {', '.join(GPUS)} are known: take the nearest, or leave it out")
    return name


class Values(Strict):
    """Every one of these is tried."""

    values: Annotated[list[Any], Field(min_length=1)]


class Range(Strict):
    """`search.samples` values are drawn from this."""

    min: float
    max: float
    distribution: Literal["uniform", "log_uniform", "integer"] = "uniform"

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.min >= self.max or (self.distribution == "log_uniform" and self.min <= 0):
            raise ValueError("needs min < max (and min > 0 for log_uniform)")
        if self.distribution == "integer" and not (self.min.is_integer() and self.max.is_integer()):
            raise ValueError("needs whole numbers for min and max of distribution integer")
        return self


class Prompts(Strict):
    """What the student is trained on."""

    source: Text
    """A file or folder of .txt .jsonl .csv .tsv .parquet (local, s3://, gs://), or
    `miniature:N` for N captions of the miniature world."""
    column: Text | None = None
    """Column or key that holds the prompt; by default `prompt`, `caption` or `text`."""
    rows_per_shard: Positive = 512
    """Prompts in one file of embeddings."""


class BackboneEntry(Strict):
    """A teacher, and what is different about its trials."""

    name: Annotated[str, Field(pattern=NAME)]
    model: Text
    """A diffusers folder, an id on the hub, or `miniature/NAME`."""
    start_timestep: Annotated[int, Field(gt=0, lt=1000)] | None = None
    """Where the student reads pure noise; by default the family's."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of `train` for this backbone."""


class Arm(Strict):
    """Settings that belong together, under one name."""

    name: Annotated[str, Field(pattern=NAME)]
    train: dict[str, Any]
    """Settings that replace those of `train` and of the backbone; each may be swept."""


class Search(Strict):
    """How trials are made of swept values, and which of them are cut short."""

    samples: Positive = 1
    """Draws from each {min, max}; grid values multiply."""
    seed: Seed = 0
    """Of those draws."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: at each rung the worse trials stop, by `metric` (Li et al. 2020); under none they go on."""
    metric: Headline | None = None
    """What trials are ranked by, one that evaluate.scorers measure, higher is better; by default the first
    that they do of attribute_accuracy, hps_v2.1, hps_v2.0 and clip_plus."""
    grace: Annotated[float, Field(gt=0, le=1)] = 0.25
    """asha: share of its steps that every trial may take."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha: one of so many trials passes a rung."""


class Resources(Strict):
    """What one trial asks of the cluster."""

    workers: Positive = 1
    """Training processes of a trial; batch_size is divided among them."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """0: trains on CPUs; 1: on a GPU. For more GPUs, more workers."""
    gpu: Annotated[str, AfterValidator(_known_gpu)] | None = None
    """The kind of GPU, by which `--plan` reckons time, and a sweep that cannot fit is refused."""
    step: StepSettings = StepSettings()
    """How a step is computed; what it computes differs by rounding alone."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.7
    """Logical CPUs; leave 0.3 of a CPU a trial for its driver, and for students that are drawn."""
    max_concurrent_trials: Positive | None = None
    """By default as many as the cluster can hold."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that a trial's group is started again from its last checkpoint."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints: what an interruption can cost."""
    keep_checkpoints: Positive = 2
    """The newest so many stay, and the one whose student scored best."""
    hang_timeout_s: Annotated[float, Field(gt=0)] = 900
    """A training none of whose steps ends for so long is started again from its last checkpoint;
    the first step of a start may take two minutes whatever this says."""

    @model_validator(mode="after")
    def _gpu_is_used(self) -> "Resources":
        if self.gpu is not None and not self.gpus_per_worker:
            raise ValueError(f"gpu is {self.gpu!r} where gpus_per_worker is 0: set that, or leave gpu out")
        return self


class Tracking(Strict):
    """Where runs are recorded."""

    uri: Text | None = None
    """MLflow server, or a database unless the storage is a bucket; by default SQLite in the storage."""


class Budget(Strict):
    """What a sweep may cost; checked against the plan's estimate before anything starts."""

    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    assumed_tflops: Annotated[float, Field(gt=0)] | None = None
    """TFLOP/s that one worker is taken to sustain, for the estimate of time; by default 30 % of the
    peak of `resources.gpu`."""


class Sweep(Strict):
    """A whole sweep file."""

    name: Annotated[str, Field(pattern=NAME)]
    """Of the MLflow experiment and of the folder in the storage."""
    prompts: Prompts
    negative_prompts: Prompts | None = None
    """For NASA-T (train.nasa_interval): what students learn to keep away from."""
    backbones: Annotated[list[BackboneEntry], Field(min_length=1)]
    train: dict[str, Any] = Field(default_factory=dict)
    """The settings of `workloads.settings.train.TrainSettings`; each may be swept."""
    arms: list[Arm] = Field(default_factory=list)
    """What is compared, where one swept setting cannot say it; each is tried on every backbone."""
    evaluate: Evaluate
    infer: Infer | None = None
    """The second search: negative prompts, on every student."""
    search: Search = Search()
    resources: Resources = Resources()
    storage: Text | None = None
    """Folder or bucket; everything of the sweep is below STORAGE/NAME. By default what the variable
    ORCHESTRATOR_STORAGE says, else the folder `results`."""
    tracking: Tracking = Tracking()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        if self.name in RESERVED:
            raise ValueError(f"name is {self.name!r}, which the storage keeps for its own: take another")
        for section in ("backbones", "arms"):
            names = [entry.name for entry in getattr(self, section)]
            if len(set(names)) < len(names):
                raise ValueError(f"{section} have a name twice: {sorted(names)}")
        metric = self.search.metric
        if metric is not None and metric not in self.evaluate.headlines:
            raise ValueError(
                f"search.metric is {metric}, which none of evaluate.scorers measures: name its scorer there, "
                f"or another search.metric"
            )
        if self.search.scheduler == "asha" and self.ranked_by is None:
            raise ValueError(
                "search.scheduler asha ranks by a score, and evaluate.scorers measures none to rank by: "
                "name attributes, hpsv2 or clip there"
            )
        return self

    @property
    def ranked_by(self) -> str | None:
        """The metric that trials, the checkpoints of one, and students are ranked by, if any is measured."""
        return self.search.metric or first_of(HEADLINES, self.evaluate.headlines)


def swept(value: Any) -> Values | Range | None:
    """`value` as a swept one, or None if it is a plain setting.

    Raises:
        ValidationError: it looks swept and is not well formed.
    """
    if not isinstance(value, dict):
        return None
    if "values" in value:
        return Values.model_validate(value)
    if "min" in value or "max" in value:
        return Range.model_validate(value)
    return None


def draw(spread: Range, uniform: float) -> float | int:
    """The value of `spread` at quantile `uniform` in [0, 1)."""
    if spread.distribution == "log_uniform":
        low, high = math.log(spread.min), math.log(spread.max)
        return math.exp(low + (high - low) * uniform)
    if spread.distribution == "integer":
        return math.floor(spread.min + (spread.max - spread.min + 1) * uniform)
    return spread.min + (spread.max - spread.min) * uniform
