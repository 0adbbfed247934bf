"""The reference of a backbone: encoded prompts of sheets and scores, and the teacher's own pictures.

`make_reference` makes it once per backbone; all its trials and the driver read it. Shapes: N pictures or
prompts, P pixels a side.
"""

import json
import tempfile
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor

from orchestrator.common.digests import digest
from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Evaluate
from orchestrator.planning.inference import InferencePlan
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.loras.files import files_digests
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.catalogue import make_scorer
from workloads.scorers.score import Score, scores_from_json
from workloads.scorers.scorer import Request
from workloads.settings.scorers import MINIATURE_SCORERS

BATCH = 64
"""Pictures in one batch of a scorer."""


@dataclass(frozen=True)
class Reference:
    """Encoded prompts, teacher's pictures and teacher's scores of one backbone and `evaluate` section."""

    null: Conditioning
    """The empty prompt, N = 1."""
    sheet: Conditioning
    """Prompts of the contact sheet."""
    scored: Conditioning | None
    """Prompts that scores are measured on; None without scorers."""
    pairs: Conditioning | None
    """Prompts of the second search's pairs; None without a second search."""
    negatives: Conditioning | None
    """Their negative prompts; a single one if all are the same."""
    teacher_sheet: Tensor
    """(N, 3, P, P) in [-1, 1]: the teacher's pictures of the sheet's prompts."""
    teacher_scores: tuple[Score, ...]
    cut: tuple[str, ...] = ()
    """Prompts that are longer than the text encoder's tokens; empty in references of earlier versions."""


def reference_name(teacher: TeacherSource, evaluate: Evaluate, infer: InferencePlan | None) -> str:
    """Return the file of a teacher's reference in the storage, without its suffix.

    The files of LoRAs count by their content, since they are trained again under the same name.

    Raises:
        ValueError: a LoRA has no file that can be read.
    """
    loras = [[*files_digests(lora), lora.weight] for lora in teacher.loras]
    asked = [
        evaluate.model_dump(mode="json", exclude={"evaluations"}),
        infer.pairs_and_scorers if infer and infer.pairs else None,
    ]
    return f"references/{digest([teacher.source, *loras, *asked])[:16]}"


def load_reference(store: Store, name: str) -> Reference:
    """Read a reference that `make_reference` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference"
        path.write_bytes(store.read(f"{name}.safetensors"))
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            described = {key: json.loads(value) for key, value in file.metadata().items()}
    return Reference(
        null=_needed(tensors, "null"),
        sheet=_needed(tensors, "sheet"),
        scored=_conditioning(tensors, "scored"),
        pairs=_conditioning(tensors, "pairs"),
        negatives=_conditioning(tensors, "negatives"),
        teacher_sheet=tensors["teacher_sheet"],
        teacher_scores=scores_from_json(described["scores"]),
        cut=tuple(described.get("cut", ())),
    )


def scored_prompts(evaluate: Evaluate) -> list[str]:
    """Return the prompts that the scorers of `evaluate` need pictures of.

    They are captions of the miniature world that no training used, or the sheet's prompts in turn.
    """
    if any(scorer.name in MINIATURE_SCORERS for scorer in evaluate.scorers):
        return AttributeAccuracy.prompts(evaluate.samples)
    return list(islice(cycle(evaluate.sheet_prompts), evaluate.samples if evaluate.scorers else 0))


def score_pictures(pictures: Tensor, evaluate: Evaluate, device: str) -> list[Score]:
    """Score pictures (N, 3, P, P), in [-1, 1], of `scored_prompts` with the scorers of `evaluate`.

    Scorers are loaded onto the device for this call only, as training needs the memory.
    """
    requests = [Request(prompt) for prompt in scored_prompts(evaluate)]
    scores = []
    for settings in evaluate.scorers:
        scorer = make_scorer(settings)
        scorer.load(device)
        parts = [
            scorer.measure(pictures[first : first + BATCH], requests[first : first + BATCH])
            for first in range(0, len(requests), BATCH)
        ]
        measured = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores += scorer.summarise(measured, requests)
    return scores


def _conditioning(tensors: dict[str, Tensor], name: str) -> Conditioning | None:
    return _needed(tensors, name) if name in tensors else None


def _needed(tensors: dict[str, Tensor], name: str) -> Conditioning:
    mask, pooled = (tensors.get(f"{name}_{part}") for part in ("mask", "pooled"))
    return Conditioning(tensors[name], mask, pooled)
