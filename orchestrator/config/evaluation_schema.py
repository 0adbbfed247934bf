"""The sections of a sweep file about what is drawn and measured: `evaluate` and `infer`."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from orchestrator.config.base_model import Positive, Seed, Strict, Text, no_booleans
from workloads.settings.scorers import ScorerSettings

STYLE = r"^[A-Za-z0-9_ -]{0,60}$"
"""A style becomes part of a metric's name, which MLflow must take."""
FEWEST_FOR_FIDELITY = 8
Headline = Literal["attribute_accuracy", "hps_v2.1", "hps_v2.0", "clip_plus"]
"""The metrics that trials can be ranked by, higher is better; unless `search.metric` names one, by the
first of these that is measured."""
LOOKING = ("attributes", "fidelity", "clip", "hpsv2")
"""Scorers that can measure pictures of prompts alone."""


def _whole_or_share(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"needs a share of one GPU or whole ones, not {gpus:g}")
    return gpus


class Teacher(Strict):
    """How the teacher draws the pictures that students are compared with."""

    steps: Positive = 20
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 4.5


def _briefly(scorer: ScorerSettings) -> str | dict[str, str | float]:
    """As a sweep file would have it; part of what a result was measured with."""
    given = {key: value for key, value in asdict(scorer).items() if value is not None}
    return scorer.name if len(given) == 1 else given


def _by_name(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict | ScorerSettings):
        raise ValueError(f"is {value!r}: give a scorer's name, or {{name: ..., with its options}}")
    return no_booleans(value)


Scorer = Annotated[
    ScorerSettings,
    BeforeValidator(_by_name),
]
"""A scorer by its name alone, or {name: ..., with its options}."""


def _looks(scorer: ScorerSettings) -> ScorerSettings:
    if scorer.name not in LOOKING:
        raise ValueError(
            f"scorer {scorer.name} belongs under infer.scorers; while a student trains, "
            f"{', '.join(LOOKING)} can look"
        )
    if scorer.threshold is not None:
        raise ValueError("clip's threshold is of negative prompts, which belong under infer: leave it out")
    return scorer


def _once(scorers: list[ScorerSettings]) -> list[ScorerSettings]:
    names = [f"{scorer.name} {scorer.version or ''}".strip() for scorer in scorers]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is there twice, and its scores have one name: keep one")
    return scorers


class Evaluate(Strict):
    """What is looked at and measured while a student trains, and when it is done."""

    scorers: Annotated[
        list[Annotated[Scorer, AfterValidator(_looks), PlainSerializer(_briefly)]], AfterValidator(_once)
    ] = Field(default_factory=list)
    """Of miniature backbones, `attributes`: does the picture show what the prompt names, and `fidelity`:
    are pictures as good and as varied as real ones. Of all, `clip` and `hpsv2`: agreement with the prompt."""
    samples: Positive = 256
    """Pictures that a score is measured on; of captions of the miniature world if `attributes` or
    `fidelity` is there, else of the sheet's prompts in turn."""
    seed: Seed = 0
    """Of the noise; the same for every trial, so that sheets and scores compare."""
    evaluations: Positive = 5
    """How often in a training: contact sheets and scores, evenly spaced, the last at its end."""
    sheet_prompts: Annotated[list[Text], Field(min_length=1, max_length=32)]
    """The rows of the contact sheets."""
    teacher: Teacher = Teacher()

    @property
    def headlines(self) -> list[str]:
        """The metrics of these scorers that trials can be ranked by."""
        names = {"attributes": "attribute_accuracy", "clip": "clip_plus"}
        found = [f"hps_{s.version}" if s.name == "hpsv2" else names.get(s.name) for s in self.scorers]
        return [metric for metric in found if metric is not None]

    @model_validator(mode="after")
    def _enough(self) -> "Evaluate":
        if self.samples < FEWEST_FOR_FIDELITY and any(each.name == "fidelity" for each in self.scorers):
            raise ValueError(f"samples must be at least {FEWEST_FOR_FIDELITY} for scorer fidelity")
        return self


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
    scorers: Annotated[list[Scorer], Field(min_length=1), AfterValidator(_once)]
    """What is measured of these pictures."""
    sheet_pairs: Positive = 8
    """Rows of the contact sheet: the first pairs."""
    max_accuracy_loss: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Attribute accuracy that the best strength may cost; see `champion` in the README."""
    keep_pictures: bool = False
    """Whether pictures stay in the storage when they have been scored."""
    gpus: Annotated[float, Field(ge=0, le=8), AfterValidator(_whole_or_share)] = 0
    """Asked for by each of its small trials, and by each scorer; a share of one, or whole ones."""
