"""What every trial of a backbone shares: encoded prompts to look at, and the teacher's pictures.

Made once per backbone, as a Ray task, in a process of its own: only there are a teacher's text
encoder and its many-step pipeline ever loaded.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.plan import digest
from orchestrator.storage import Store
from orchestrator.sweep import Evaluate
from workloads.conditioning import Conditioning
from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.score import Score
from workloads.teacher import draw, open_pipeline
from workloads.text import TextEncoder


@dataclass(frozen=True)
class Reference:
    """Of one backbone, for one `evaluate` section."""

    null: Conditioning
    """Of the empty prompt, B = 1."""
    sheet: Conditioning
    """Of the sheet's prompts."""
    scored: Conditioning | None
    """Of the prompts that scores are measured on, if any are."""
    teacher_sheet: Tensor
    """(N, 3, P, P) in [-1, 1]: what the teacher draws for the sheet's prompts."""
    teacher_scores: tuple[Score, ...]


def reference_name(source: str, evaluate: Evaluate) -> str:
    """The file of a backbone's reference in the storage."""
    return f"references/{digest([source, evaluate.model_dump(mode='json', exclude={'times'})])[:16]}"


def make_reference(source: str, evaluate: Evaluate, root: str) -> str:
    """Draws, scores and encodes; returns the name of the file. Done once, then found."""
    store, name = Store(root), reference_name(source, evaluate)
    if store.exists(f"{name}.safetensors"):
        return name
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = _encoded(source, evaluate, device)
    pipeline = open_pipeline(source, device)
    teacher = {"steps": evaluate.teacher.steps, "guidance_scale": evaluate.teacher.guidance_scale}
    sheet = draw(pipeline, evaluate.sheet_prompts, seed=evaluate.seed, **teacher)  # type: ignore[arg-type]
    tensors["teacher_sheet"] = sheet
    scores: list[Score] = []
    for scorer in scorers(evaluate):
        prompts = scorer.prompts(evaluate.samples)
        scores += scorer.score(draw(pipeline, prompts, seed=evaluate.seed, **teacher), prompts)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference"
        save_file(tensors, path, {"scores": json.dumps([asdict(score) for score in scores])})
        store.write(f"{name}.safetensors", path.read_bytes())
    return name


def load_reference(store: Store, name: str) -> Reference:
    """Reads what `make_reference` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference"
        path.write_bytes(store.read(f"{name}.safetensors"))
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            scores = json.loads(file.metadata()["scores"])
    return Reference(
        null=_conditioning(tensors, "null"),
        sheet=_conditioning(tensors, "sheet"),
        scored=_conditioning(tensors, "scored") if "scored" in tensors else None,
        teacher_sheet=tensors["teacher_sheet"],
        teacher_scores=tuple(Score(**score) for score in scores),
    )


def scorers(evaluate: Evaluate) -> list[AttributeAccuracy]:
    """The scorers that `evaluate` names."""
    return [AttributeAccuracy() for name in evaluate.scorers if name == AttributeAccuracy.name]


def _encoded(source: str, evaluate: Evaluate, device: str) -> dict[str, Tensor]:
    encoder = TextEncoder(source, device)
    texts = {"null": [""], "sheet": list(evaluate.sheet_prompts)}
    if evaluate.scorers:
        texts["scored"] = AttributeAccuracy.prompts(evaluate.samples)
    tensors: dict[str, Tensor] = {}
    for name, prompts in texts.items():
        encoded = encoder.encode(prompts)
        tensors[name] = encoded.embeddings.half().cpu().contiguous()
        if encoded.mask is not None:
            tensors[f"{name}_mask"] = encoded.mask.cpu().contiguous()
    return tensors


def _conditioning(tensors: dict[str, Tensor], name: str) -> Conditioning:
    return Conditioning(tensors[name], tensors.get(f"{name}_mask"))
