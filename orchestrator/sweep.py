"""The words of a sweep file, typed and strict; `sweep_file` reads one.

A value under `train` may be swept: `{values: [...]}` tries each, `{min:, max:, distribution:}` draws
`search.samples` of them; see `plan`. Nothing here is slow to import, so that a mistake is told at once.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from orchestrator.gpus import GPUS
from orchestrator.strict import Strict, no_booleans
from workloads.scorers.settings import ScorerSettings
from workloads.settings import StepSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
RESERVED = ("artifacts", "mlflow.db", "prompts", "references")
"""What lies in the storage beside the sweeps."""
STYLE = r"^[A-Za-z0-9_ -]{0,60}$"
"""A style becomes part of a metric's name, which MLflow must take."""
FEWEST_FOR_FIDELITY = 8


def _whole_or_share(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"needs a share of one GPU or whole ones, not {gpus:g}")
    return gpus


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty: give it some text, or leave the setting out")
    return text


def _known_gpu(name: str) -> str:
    if name not in GPUS:
        raise ValueError(f"is {name!r}, and {', '.join(GPUS)} are known: take the nearest, or leave it out")
    return name


Positive = Annotated[int, Field(gt=0, le=1_000_000)]
"""A count of things that are held in memory, or made one by one."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, AfterValidator(_not_blank)]


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


class Teacher(Strict):
    """How the teacher draws the pictures that students are compared with."""

    steps: Positive = 20
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 4.5


Scorer = Annotated[
    ScorerSettings,
    BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else no_booleans(value)),
]
"""A scorer by its name alone, or {name: ..., with its options}."""


class Evaluate(Strict):
    """What is looked at and measured while a student trains, and when it is done."""

    scorers: list[Literal["attributes", "fidelity"]] = Field(default_factory=list)
    """Of miniature backbones only. `attributes`: does the picture show what the prompt names;
    `fidelity`: are pictures as good and as varied as real ones."""
    samples: Positive = 256
    """Pictures that a score is measured on."""
    seed: Seed = 0
    """Of the noise; the same for every trial, so that sheets and scores compare."""
    times: Positive = 5
    """How often in a training: contact sheets and scores, evenly spaced, the last at its end."""
    sheet_prompts: Annotated[list[Text], Field(min_length=1, max_length=32)]
    """The rows of the contact sheets."""
    teacher: Teacher = Teacher()


class Pair(Strict):
    """A prompt, and what its picture shall not show."""

    prompt: Text
    negative_prompt: Text
    style: Annotated[str, Field(pattern=STYLE)] = ""
    """Group of prompts, for scores by group."""


class AttentionGuidance(Strict):
    """A way to obey negative prompts, at one or more strengths."""

    kind: Literal["nasa", "nag"]
    strength: Any
    """A number, {values: [...]} or {min:, max:}; the plain student is always drawn as well."""
    clip: float = 2.5
    blend: float = 0.375


class Infer(Strict):
    """What is tried on each finished student; none of it trains anything."""

    attention_guidance: Annotated[list[AttentionGuidance], Field(min_length=1)]
    pairs: list[Pair] | str
    """Prompts with their negative prompts; or a .jsonl file of them."""
    pictures: Positive = 32
    """Of each pair, with the same noise for every strength and student."""
    scorers: Annotated[list[Scorer], Field(min_length=1)]
    """What is measured of these pictures."""
    sheet_pairs: Positive = 8
    """Rows of the contact sheet: the first pairs."""
    most_lost: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Attribute accuracy that the best strength may cost; see `champion` in the README."""
    keep_pictures: bool = False
    """Whether pictures stay in the storage when they have been scored."""
    gpus: Annotated[float, Field(ge=0, le=8), AfterValidator(_whole_or_share)] = 0
    """Asked for by each of its small trials, and by each scorer; a share of one, or whole ones."""


class Search(Strict):
    """How trials are made of swept values, and which of them are cut short."""

    samples: Positive = 1
    """Draws from each {min, max}; grid values multiply."""
    seed: Seed = 0
    """Of those draws."""
    scheduler: Literal["none", "asha"] = "none"
    """asha: at each rung the worse trials stop, by `metric` (Li et al. 2020)."""
    metric: Literal["attribute_accuracy"] = "attribute_accuracy"
    """What ASHA and the final table rank by; higher is better."""
    grace: Annotated[float, Field(gt=0, le=1)] = 0.25
    """asha: share of its steps that every trial may take."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """asha: one of so many trials passes a rung."""


class Resources(Strict):
    """What one trial asks of the cluster."""

    workers: Positive = 1
    """Training processes of a trial; batch_size is divided among them."""
    gpus_per_worker: Annotated[int, Field(ge=0)] = 0
    """0: trains on CPUs."""
    gpu: Annotated[str, AfterValidator(_known_gpu)] | None = None
    """The kind of GPU, by which `--plan` reckons time, and a sweep that cannot fit is refused."""
    step: StepSettings = StepSettings()
    """How a step is computed; what it computes differs by rounding alone."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.7
    """Logical CPUs; leave 0.3 of a CPU a trial for its driver, and for students that are drawn."""
    trials_at_once: Positive | None = None
    """By default as many as the cluster can hold."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that a trial's group is started again from its last checkpoint."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints: what an interruption can cost."""
    checkpoints_kept: Positive = 2
    """The newest so many stay, and the one whose student scored best."""
    hang_seconds: Annotated[float, Field(gt=0)] = 900
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
    """MLflow server or database; by default SQLite in the storage."""


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
    """The settings of `workloads.settings.TrainSettings`; each may be swept."""
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
        if "fidelity" in self.evaluate.scorers and self.evaluate.samples < FEWEST_FOR_FIDELITY:
            raise ValueError(f"evaluate.samples must be at least {FEWEST_FOR_FIDELITY} for scorer fidelity")
        if self.search.scheduler == "asha" and "attributes" not in self.evaluate.scorers:
            raise ValueError("search.scheduler asha needs attributes in evaluate.scorers")
        return self


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
