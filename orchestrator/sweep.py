"""The sweep file, typed and strict.

    sweep = load_sweep(Path("sweeps/miniature.yaml"), overrides=["train.steps=100"])

A value under `train` may be swept: `{values: [...]}` tries each, `{min:, max:, distribution:}`
draws `search.samples` of them. `plan.expand` turns that into trials. Nothing here is slow to
import, so that a mistake is told at once.
"""

import difflib
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from orchestrator.errors import UserError
from orchestrator.yaml_file import KeyPath, YamlFile
from workloads.settings import TrainSettings

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
Positive = Annotated[int, Field(gt=0)]


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


class Evaluate(Strict):
    """What is looked at and measured while a student trains, and when it is done."""

    scorers: list[Literal["attributes"]] = []
    """`attributes`: does the picture show what the prompt names (miniature backbones only)."""
    samples: Positive = 256
    """Pictures that a score is measured on."""
    seed: int = 0
    """Of the noise; the same for every trial, so that sheets and scores compare."""
    times: Positive = 5
    """How often in a training: contact sheets and scores, evenly spaced, the last at its end."""
    sheet_prompts: Annotated[list[str], Field(min_length=1, max_length=32)]
    """The rows of the contact sheets."""
    teacher: Teacher = Teacher()


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
    cpus_per_worker: Annotated[float, Field(gt=0)] = 0.75
    """Logical CPUs; leave some free, 0.25 of a CPU a trial, for its driver and its data."""
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
    backbones: Annotated[list[BackboneEntry], Field(min_length=1)]
    train: dict[str, Any] = {}
    """The settings of `workloads.settings.TrainSettings`; each may be swept."""
    evaluate: Evaluate
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
        if self.search.scheduler == "asha" and not self.evaluate.scorers:
            raise ValueError("search.scheduler asha needs a scorer in evaluate.scorers")
        return self


class SweepFile:
    """A validated sweep, and where in the file each of its settings stands."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self._file = YamlFile(path)
        for override in overrides:
            self._override(override)
        try:
            self.sweep = Sweep.model_validate(self._file.data)
        except ValidationError as error:
            raise self._error(error, Sweep, ()) from None

    def train_settings(self, values: dict[str, Any], backbone: int) -> TrainSettings:
        """The settings of one trial of the backbone at this index.

        Raises:
            UserError: naming file, line and setting.
        """
        try:
            return TypeAdapter(TrainSettings).validate_python(values)
        except ValidationError as error:
            loc = error.errors()[0]["loc"]
            own = ("backbones", backbone, "train")
            known = bool(loc) and loc[0] in self.sweep.backbones[backbone].train
            raise self._error(error, TrainSettings, own if known else ("train",)) from None

    def error(self, key_path: KeyPath, message: str) -> UserError:
        """An error about the setting at `key_path`."""
        name = ".".join(str(key) for key in key_path)
        return UserError(f"{self._file.where(key_path)}: {name}: {message}")

    def _override(self, override: str) -> None:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write --set key=value, as in train.steps=100")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {override}: the value is not valid YAML") from None
        keys: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
        place, at = self._file.data, keys[:0]
        for part in keys[:-1]:
            place, index = self._descend(place, part, override, at)
            at = (*at, index)
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: {keys[-2]} is not a section of the file")
        place[keys[-1]] = value
        self._file.overridden((*at, keys[-1]), override)

    @staticmethod
    def _descend(place: Any, part: str | int, override: str, above: KeyPath) -> tuple[Any, str | int]:
        """What `part` (a key, or the index or name of an item) names in `place`, and its key."""
        if isinstance(place, list):
            names = [item.get("name") if isinstance(item, dict) else None for item in place]
            index = names.index(part) if part in names else part
            if isinstance(index, int) and index < len(place):
                return place[index], index
            raise UserError(f"--set {override}: no {part!r} in {'.'.join(map(str, above))}: {names}")
        if isinstance(place, dict):
            return place.setdefault(part, {}), part
        raise UserError(f"--set {override}: {part!r} is not a section of the file")

    def _error(self, error: ValidationError, root: Any, prefix: KeyPath) -> UserError:
        first = error.errors()[0]
        at: KeyPath = (*prefix, *first["loc"])
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            near = difflib.get_close_matches(str(at[-1]), _known_keys(root, first["loc"]), n=1, cutoff=0)
            return self.error(at, f"unknown key; the nearest valid one is {near[0]!r}")
        if first["type"] == "missing":
            return self.error(at, "this setting is needed and is not there")
        message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
        shown = "" if first["type"] == "value_error" else f", not {first['input']!r}"
        return self.error(at, f"{message[0].lower()}{message[1:]}{shown}"[:300])


def _known_keys(root: Any, loc: tuple[str | int, ...]) -> list[str]:
    """The keys that are valid beside the last one of `loc`."""
    model: Any = root
    for key in loc[:-1]:
        if isinstance(key, str):
            model = next((kind for name, kind in _members(model) if name == key), model)
    return [name for name, _ in _members(model)]


def _members(model: Any) -> list[tuple[str, Any]]:
    """Names and types of the settings of a section; of a list, those of its items."""
    inner = getattr(model, "__args__", None)
    if inner and not hasattr(model, "model_fields"):
        model = inner[0]
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [(name, info.annotation) for name, info in model.model_fields.items()]
    return [(item.name, item.type) for item in fields(model)]


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


def load_sweep(path: Path, overrides: list[str] | None = None) -> SweepFile:
    """Reads and validates a sweep file; `overrides` are `key=value` strings.

    Raises:
        UserError: one line that names file, line and setting.
    """
    return SweepFile(path, overrides or [])
