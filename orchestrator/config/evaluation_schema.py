"""Sections `evaluate` and `infer` of a sweep file: which images are sampled, and what is measured of them."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from orchestrator.config.base_model import Positive, Section, Seed, Text
from workloads.settings.scorers import ScorerSettings

STYLE = r"^[A-Za-z0-9_ -]{0,60}$"
"""Pattern of a style, which becomes part of a metric's name that MLflow must accept."""
MIN_FIDELITY_SAMPLES = 8
RankingMetric = Literal["attribute_accuracy", "hps_v2.1", "hps_v2.0", "clip_plus"]
"""Metrics by which trials can be ranked, higher is better. `search.metric` names one; by default it is the
first of these that is measured."""
TRAINING_SCORERS = ("attributes", "fidelity", "clip", "hpsv2")
"""Scorers that need prompts and images alone, so that they can run while a student trains."""


def _check_gpu_share(gpus: float) -> float:
    if gpus > 1 and not gpus.is_integer():
        raise ValueError(f"must be a fraction of one GPU or a whole number, not {gpus:g}")
    return gpus


class Teacher(Section):
    """Settings with which the teacher samples the images that students are compared with."""

    steps: Positive = 20
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] = 4.5


def _serialize_scorer(scorer: ScorerSettings) -> str | dict[str, str | float]:
    """Return a scorer as a sweep file writes it; results store it as part of their protocol."""
    given = {key: value for key, value in asdict(scorer).items() if value is not None}
    return scorer.name if len(given) == 1 else given


def _expand_scorer_name(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict | ScorerSettings):
        raise ValueError(f"is {value!r}: give a scorer's name, or {{name: ..., with its options}}")
    return value


Scorer = Annotated[ScorerSettings, BeforeValidator(_expand_scorer_name)]
"""A scorer by its name alone, or {name: ..., with its options}."""


def _check_training_scorer(scorer: ScorerSettings) -> ScorerSettings:
    if scorer.name not in TRAINING_SCORERS:
        raise ValueError(
            f"scorer {scorer.name} belongs under infer.scorers: evaluate.scorers accepts "
            f"{', '.join(TRAINING_SCORERS)}"
        )
    if scorer.threshold is not None:
        raise ValueError("clip's threshold applies to negative prompts, which only infer has: leave it out")
    return scorer


def _check_unique(scorers: list[ScorerSettings]) -> list[ScorerSettings]:
    names = [f"{scorer.name} {scorer.version or ''}".strip() for scorer in scorers]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise ValueError(f"{duplicate} is listed twice, and both would write the same metrics: keep one")
    return scorers


class Evaluate(Section):
    """Contact sheets and scores of a student while it trains."""

    scorers: Annotated[
        list[Annotated[Scorer, AfterValidator(_check_training_scorer), PlainSerializer(_serialize_scorer)]],
        AfterValidator(_check_unique),
    ] = Field(default_factory=list)
    """Miniature backbones only: `attributes` (does the image show what the prompt names?) and `fidelity`
    (are images as good and as varied as real ones?). All backbones: `clip` and `hpsv2`, agreement with
    the prompt."""
    samples: Positive = 256
    """Images behind a score: of captions of the miniature world if `attributes` or `fidelity` is among the
    scorers, else of `sheet_prompts` in turn."""
    seed: Seed = 0
    """Seed of the noise; the same for every trial, so that sheets and scores are comparable."""
    evaluations: Positive = 5
    """Evaluations in a training (contact sheet and scores), evenly spaced, the last at its end."""
    sheet_prompts: Annotated[list[Text], Field(min_length=1, max_length=32)]
    """Rows of the contact sheets."""
    teacher: Teacher = Teacher()

    @property
    def ranking_metrics(self) -> list[str]:
        """Metrics of these scorers by which trials can be ranked."""
        names = {"attributes": "attribute_accuracy", "clip": "clip_plus"}
        found = [f"hps_{s.version}" if s.name == "hpsv2" else names.get(s.name) for s in self.scorers]
        return [metric for metric in found if metric is not None]

    @model_validator(mode="after")
    def _check_samples(self) -> "Evaluate":
        if self.samples < MIN_FIDELITY_SAMPLES and any(each.name == "fidelity" for each in self.scorers):
            raise ValueError(f"samples must be at least {MIN_FIDELITY_SAMPLES} for scorer fidelity")
        return self


class Pair(Section):
    """A prompt, and what its image must not show."""

    prompt: Text
    negative_prompt: Text
    style: Annotated[str, Field(pattern=STYLE)] = ""
    """Group of prompts, for scores by group."""


class AttentionGuidance(Section):
    """A kernel for negative prompts (`AttentionGuidanceSettings`), at one or more strengths."""

    kind: Literal["nasa", "nag", "vsf"]
    strength: Any
    """A number, {values: [...]} or {min:, max:}; the plain student is always sampled as well."""
    clip: float = 2.5
    blend: float = 0.375


class Scales(Section):
    """Guidance scales at which students are drawn."""

    values: Annotated[list[Annotated[float, Field(gt=0, le=1000)]], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _check_order(self) -> "Scales":
        if sorted(set(self.values)) != self.values:
            raise ValueError("values must rise, each listed once")
        return self


class Infer(Section):
    """The second search, without training: students drawn by guidance scale and negative prompt."""

    guidance_scale: Scales | None = None
    """Scales of students that read theirs (`train.guidance_input`). Each is drawn and scored as `evaluate`
    asks, and the best becomes the student's default. Other students are drawn as they are."""
    attention_guidance: list[AttentionGuidance] = Field(default_factory=list)
    """Kernels for negative prompts, tried at every scale."""
    pairs: list[Pair] | str = Field(default_factory=list)
    """Prompts with their negative prompts; or a .jsonl file of them. For attention_guidance."""
    pictures: Positive = 32
    """Images of each pair, with the same noise for every strength and student."""
    scorers: Annotated[list[Scorer], AfterValidator(_check_unique)] = Field(default_factory=list)
    """Scorers of these images. For attention_guidance."""
    max_accuracy_loss: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Attribute accuracy that the best strength may cost."""
    gpus: Annotated[float, Field(ge=0, le=8), AfterValidator(_check_gpu_share)] = 0
    """GPUs of each inference trial and of each scorer: a fraction of one, or a whole number."""

    @model_validator(mode="after")
    def _check_axes(self) -> "Infer":
        if not self.attention_guidance and self.guidance_scale is None:
            raise ValueError("has nothing to try: add attention_guidance or guidance_scale")
        for name in ("pairs", "scorers"):
            if self.attention_guidance and not getattr(self, name):
                raise ValueError(f"attention_guidance needs {name}: add at least one")
            if not self.attention_guidance and getattr(self, name):
                raise ValueError(f"{name} are for attention_guidance: add it, or leave them out")
        return self
