"""What every trial of a backbone shares: encoded prompts to look at, and the teacher's pictures.

`teacher_reference` makes it, once per backbone; trials and the driver read it.
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
from workloads.backbones.conditioning import Conditioning
from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.catalogue import make_scorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Request
from workloads.settings.scorers import MINIATURE_SCORERS

BATCH = 64
"""Pictures that a scorer sees at once."""


@dataclass(frozen=True)
class Reference:
    """Of one backbone, for one `evaluate` section."""

    null: Conditioning
    """Of the empty prompt, B = 1."""
    sheet: Conditioning
    """Of the sheet's prompts."""
    scored: Conditioning | None
    """Of the prompts that scores are measured on, if any are."""
    pairs: Conditioning | None
    """Of the prompts of the second search's pairs, if there is one."""
    negatives: Conditioning | None
    """Of their negative prompts; of one for all, if they are all the same."""
    teacher_sheet: Tensor
    """(N, 3, P, P) in [-1, 1]: what the teacher draws for the sheet's prompts."""
    teacher_scores: tuple[Score, ...]


def reference_name(source: str, evaluate: Evaluate, infer: InferencePlan | None) -> str:
    """The file of a backbone's reference in the storage."""
    asked = [evaluate.model_dump(mode="json", exclude={"evaluations"}), infer.asked if infer else None]
    return f"references/{digest([source, *asked])[:16]}"


def load_reference(store: Store, name: str) -> Reference:
    """Reads what `make_reference` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference"
        path.write_bytes(store.read(f"{name}.safetensors"))
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            scores = json.loads(file.metadata()["scores"])
    return Reference(
        null=_needed(tensors, "null"),
        sheet=_needed(tensors, "sheet"),
        scored=_conditioning(tensors, "scored"),
        pairs=_conditioning(tensors, "pairs"),
        negatives=_conditioning(tensors, "negatives"),
        teacher_sheet=tensors["teacher_sheet"],
        teacher_scores=tuple(Score(**score) for score in scores),
    )


def scored_prompts(evaluate: Evaluate) -> list[str]:
    """What is drawn for the scorers of `evaluate`.

    Captions of the miniature world that none was trained on, or the sheet's prompts in turn.
    """
    if any(scorer.name in MINIATURE_SCORERS for scorer in evaluate.scorers):
        return AttributeAccuracy.prompts(evaluate.samples)
    return list(islice(cycle(evaluate.sheet_prompts), evaluate.samples if evaluate.scorers else 0))


def scores_of(pictures: Tensor, evaluate: Evaluate, device: str) -> list[Score]:
    """What the scorers of `evaluate` say of pictures (N, 3, P, P) in [-1, 1] of those prompts.

    Scorers are loaded for it on the device, and gone after it: training needs the memory.
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
