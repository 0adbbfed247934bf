"""The words of a sweep file, typed and strict; `sweep_file` reads one.

A value under `train` may be swept: `{values: [...]}` tries each, `{min:, max:, distribution:}`
draws `search.samples` of them. `plan.expand` turns that into trials. Nothing here is slow to
import, so that a mistake is told at once.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from workloads.scorers.settings import ScorerSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Positive = Annotated[int, Field(gt=0)]
FEWEST_FOR_FIDELITY = 8


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
        return self


class Prompts(Strict):
    """What the student is trained on."""

    source: str
    """A file or folder of .txt .jsonl .csv .tsv .parquet (local, s3://, gs://), or
    `miniature:N` for N captions of the miniature world."""
    column: str | None = None
    """Column or key that holds the prompt; by default `prompt`, `caption` or `text`."""
    rows_per_shard: Positive = 512
    """Prompts in one file of embeddings."""


class BackboneEntry(Strict):
    """A teacher, and what is different about its trials."""

    name: Annotated[str, Field(pattern=NAME)]
    model: str
    """A diffusers folder, an id on the hub, or `miniature/NAME`."""
    start_timestep: Annotated[int, Field(gt=0, lt=1000)] | None = None
    """Where the student reads pure noise; by default the family's."""
    train: dict[str, Any] = {}
    """Settings that replace those of `train` for this backbone."""


class Teacher(Strict):
    """How the teacher draws the pictures that students are compared with."""

    steps: Positive = 20
    guidance_scale: float = 4.5


Scorer = Annotated[
    ScorerSettings, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
]
"""A scorer by its name alone, or {name: ..., with its options}."""


class Evaluate(Strict):
    """What is looked at and measured while a student trains, and when it is done."""

    scorers: list[Literal["attributes", "fidelity"]] = []
    """Of miniature backbones only. `attributes`: does the picture show what the prompt names;
    `fidelity`: are pictures as good and as varied as real ones."""
    samples: Positive = 256
    """Pictures that a score is measured on."""
    seed: int = 0
    """Of the noise; the same for every trial, so that sheets and scores compare."""
    times: Positive = 5
    """How often in a training: contact sheets and scores, evenly spaced, the last at its end."""
    sheet_prompts: Annotated[list[str], Field(min_length=1, max_length=32)]
    """The rows of the contact sheets."""
    teacher: Teacher = Teacher()


class Pair(Strict):
    """A prompt, and what its picture shall not show."""

    prompt: str
    negative_prompt: str
    style: str = ""
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
    most_lost: Annotated[float, Field(ge=0)] = 0.05
    """Attribute accuracy that the best strength may cost; see `champion` in the README."""
    keep_pictures: bool = False
    """Whether pictures stay in the storage when they have been scored."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """Asked for by each of its small trials, and by each scorer."""


class Search(Strict):
    """How trials are made of swept values, and which of them are cut short."""

    samples: Positive = 1
    """Draws from each {min, max}; grid values multiply."""
    seed: int = 0
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
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.7
    """Logical CPUs; leave 0.3 of a CPU a trial for its driver, and for students that are drawn."""
    trials_at_once: Positive | None = None
    """By default as many as the cluster can hold."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times that a trial's group is started again from its last checkpoint."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints."""


class Tracking(Strict):
    """Where runs are recorded."""

    uri: str | None = None
    """MLflow server or database; by default SQLite in the storage."""


class Budget(Strict):
    """What a sweep may cost; checked against the plan's estimate before anything starts."""

    price_per_gpu_hour: Annotated[float, Field(ge=0)] | None = None
    max_gpu_hours: Annotated[float, Field(gt=0)] | None = None
    assumed_tflops: Annotated[float, Field(gt=0)] | None = None
    """TFLOP/s that one worker is taken to sustain, for the estimate of time."""


class Sweep(Strict):
    """A whole sweep file."""

    name: Annotated[str, Field(pattern=NAME)]
    """Of the MLflow experiment and of the folder in the storage."""
    prompts: Prompts
    negative_prompts: Prompts | None = None
    """For NASA-T (train.nasa_interval): what students learn to keep away from."""
    backbones: Annotated[list[BackboneEntry], Field(min_length=1)]
    train: dict[str, Any] = {}
    """The settings of `workloads.settings.TrainSettings`; each may be swept."""
    evaluate: Evaluate
    infer: Infer | None = None
    """The second search: negative prompts, on every student."""
    search: Search = Search()
    resources: Resources = Resources()
    storage: str = "results"
    """Folder or bucket; everything of the sweep is below STORAGE/NAME."""
    tracking: Tracking = Tracking()
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        names = [backbone.name for backbone in self.backbones]
        if len(set(names)) < len(names):
            raise ValueError(f"two backbones have one name: {sorted(names)}")
        if "fidelity" in self.evaluate.scorers and self.evaluate.samples < FEWEST_FOR_FIDELITY:
            raise ValueError(f"scorer fidelity needs evaluate.samples of at least {FEWEST_FOR_FIDELITY}")
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
