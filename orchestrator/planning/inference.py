"""Plan of the second search: every student at every guidance scale and strength, without training.

`make_inference_plan` expands the sweep's `infer` section to arms; an `InferenceTrial` is one student at one
arm. Scales are tried on students that read theirs alone, each with every strength of attention guidance.
"""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from orchestrator.config.base_model import validate
from orchestrator.config.evaluation_schema import AttentionGuidance, Evaluate, Infer, Pair
from orchestrator.config.schema import Range, Values, draw
from orchestrator.config.sweep_file import SweepFile
from orchestrator.config.validation_messages import explain
from workloads.backbones.architectures import architecture_of
from workloads.settings.train import AttentionGuidanceSettings

MAX_STRENGTHS = 1000
PLAIN = AttentionGuidanceSettings()


@dataclass(frozen=True)
class InferencePlan:
    """The arms tried on each student: the plain student first, then guidance of rising strength."""

    arms: tuple[AttentionGuidanceSettings, ...]
    pairs: tuple[Pair, ...]
    infer: Infer
    seed: int
    evaluate: Evaluate
    """What is drawn and scored at each guidance scale."""

    @property
    def scales(self) -> tuple[float, ...]:
        """Guidance scales at which students that read theirs are drawn."""
        return () if self.infer.guidance_scale is None else tuple(self.infer.guidance_scale.values)

    def trials(self, student: str, name: str, source: str, reads_scale: bool) -> tuple["InferenceTrial", ...]:
        """Return the trials of one student of the backbone `source`, scale by scale, the plain arm first."""
        scales: Sequence[float | None] = self.scales if reads_scale and self.scales else [None]
        arms = self.arms_of(source) if reads_scale or self.pairs else ()
        protocols = {scale: self.digest if scale is None else self._scale_digest for scale in scales}
        return tuple(
            InferenceTrial(student, name, arm, protocols[scale], scale) for scale in scales for arm in arms
        )

    @property
    def _scale_digest(self) -> str:
        asked = self.evaluate.model_dump(mode="json", exclude={"evaluations", "teacher"})
        return digest([self.digest, asked])

    def arms_of(self, source: str) -> tuple[AttentionGuidanceSettings, ...]:
        """Return the arms whose kernels are defined for the attention of the backbone `source`."""
        architecture = architecture_of(source)
        if architecture is None:  # a hub id that is not downloaded yet
            return self.arms
        return tuple(arm for arm in self.arms if architecture.family.has_guidance(arm.kind))

    @property
    def digest(self) -> str:
        """Digest of everything that determines an image of a given student, and what is measured of it."""
        return digest([*self.pairs_and_scorers, self.infer.pictures, self.seed])

    @property
    def pairs_and_scorers(self) -> list[Any]:
        """Pairs and scorers as JSON values."""
        pairs = [pair.model_dump() for pair in self.pairs]
        return [pairs, [asdict(scorer) for scorer in self.infer.scorers]]


@dataclass(frozen=True)
class InferenceTrial:
    """One student, sampled at one guidance scale and one strength of attention guidance."""

    student: str
    """Digest of the training that made it."""
    student_name: str
    guidance: AttentionGuidanceSettings
    protocol: str
    """Digest of the pairs, pictures, scorers and seed."""
    scale: float | None = None
    """Guidance scale; None for a student that reads none, or at its default one."""

    @property
    def scores_scale(self) -> bool:
        """True if the student is also scored at this scale, as `evaluate` asks."""
        return self.scale is not None and self.guidance == PLAIN

    @property
    def digest(self) -> str:
        scale = [] if self.scale is None else [self.scale]
        return digest([self.student, asdict(self.guidance), self.protocol, *scale])[:12]

    @property
    def name(self) -> str:
        at = "" if self.scale is None else f"-k{self.scale:g}"
        return f"{self.student_name}{at}-{self.guidance.label}-{self.guidance.strength:g}"


def make_inference_plan(file: SweepFile) -> InferencePlan | None:
    """Expand the sweep's `infer` section; None if it has none.

    Raises:
        UserError: a strength or a pair is wrong.
    """
    infer = file.sweep.infer
    if infer is None:
        return None
    arms = [PLAIN]
    for index, entry in enumerate(infer.attention_guidance):
        for strength in _strengths(file, entry, index):
            settings = {"kind": entry.kind, "strength": strength, "clip": entry.clip, "blend": entry.blend}
            arm = file.settings(AttentionGuidanceSettings, settings, ("infer", "attention_guidance", index))
            if arm.strength == 0 or arm in arms:
                raise file.error(
                    ("infer", "attention_guidance", index, "strength"),
                    f"{strength!r} is listed twice, or is 0 (the plain student, always sampled): remove it",
                )
            arms.append(arm)
    pairs = _pairs(file, infer) if infer.attention_guidance else ()
    return InferencePlan(tuple(arms), pairs, infer, file.sweep.evaluate.seed, file.sweep.evaluate)


def _strengths(file: SweepFile, entry: AttentionGuidance, index: int) -> Sequence[object]:
    """Return the strengths of one entry: its grid, or `search.samples` draws in rising order."""
    key = ("infer", "attention_guidance", index, "strength")
    kind = file.swept(entry.strength, key)
    count = len(kind.values) if isinstance(kind, Values) else file.sweep.search.samples
    if kind is not None and count > MAX_STRENGTHS:
        raise file.error(key, f"{count:,} strengths, more than {MAX_STRENGTHS:,}: try fewer")
    if isinstance(kind, Values):
        return list(kind.values)
    if isinstance(kind, Range):
        rng = random.Random(f"{file.sweep.search.seed}/infer/{index}")
        return sorted(draw(kind, rng.random()) for _ in range(file.sweep.search.samples))
    return [entry.strength]


def _pairs(file: SweepFile, infer: Infer) -> tuple[Pair, ...]:
    if not isinstance(infer.pairs, str):
        pairs = list(infer.pairs)
    else:
        pairs = [_pair(infer.pairs, number, line) for number, line in _lines(file, infer.pairs)]
    if not pairs:
        raise file.error(("infer", "pairs"), "has no pair: add at least one")
    return tuple(pairs)


def _lines(file: SweepFile, name: str) -> list[tuple[int, str]]:
    try:
        text = Path(os.path.expanduser(name)).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise file.error(("infer", "pairs"), f"{name} cannot be read: it is not UTF-8 text") from None
    except OSError as error:
        message = f"{name} cannot be read: {error.strerror or error}"
        raise file.error(("infer", "pairs"), message) from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _pair(name: str, number: int, line: str) -> Pair:
    example = 'write one JSON object per line, as {"prompt": "a cat", "negative_prompt": "blurry"}'
    try:
        record = json.loads(line)
        return validate(Pair, record)
    except ValidationError as error:
        at, message = explain(error, Pair, record)
        setting = f"{at[0]}: " if at else ""
        raise UserError(f"{name}:{number}: {setting}{message}; {example}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{name}:{number}: {example}") from None
