"""Making of a backbone's reference: its prompts are encoded, its teacher draws and is scored.

Runs as a Ray task in a process of its own, the only one that loads a teacher's text encoder and its many-step
pipeline.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from orchestrator.common.devices import process_device
from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Evaluate, Pair
from orchestrator.evaluation.reference import reference_name, score_pictures, scored_prompts
from orchestrator.planning.inference import InferencePlan
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import generate_images, open_pipeline
from workloads.scorers.catalogue import make_scorer
from workloads.scorers.score import Score
from workloads.scorers.scorer import Request


def make_reference(teacher: TeacherSource, evaluate: Evaluate, infer: InferencePlan | None, root: str) -> str:
    """Encode, draw and score unless the reference exists; return the name of its file."""
    store, name = Store(root), reference_name(teacher, evaluate, infer)
    if store.exists(f"{name}.safetensors"):
        return name
    device = process_device()
    tensors, cut = _encoded(teacher, evaluate, infer.pairs if infer else (), device)
    pipeline = open_pipeline(teacher.source, device, teacher.loras)
    sampling = {"steps": evaluate.teacher.steps, "guidance_scale": evaluate.teacher.guidance_scale}
    sheet = generate_images(pipeline, evaluate.sheet_prompts, seed=evaluate.seed, **sampling)  # type: ignore[arg-type]
    tensors["teacher_sheet"] = sheet
    _check_scorers(infer, sheet, device)
    scores: list[Score] = []
    if prompts := scored_prompts(evaluate):
        pictures = generate_images(pipeline, prompts, seed=evaluate.seed, **sampling)  # type: ignore[arg-type]
        scores = score_pictures(pictures, evaluate, device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference"
        described = {"scores": [asdict(score) for score in scores], "cut": cut}
        save_file(tensors, path, {key: json.dumps(value) for key, value in described.items()})
        store.write(f"{name}.safetensors", path.read_bytes())
    return name


def _check_scorers(infer: InferencePlan | None, sheet: Tensor, device: str) -> None:
    """Have every scorer of the second search score one picture, so that errors appear before any training.

    Raises:
        ValueError: weights are missing, or a scorer cannot read the backbone's pictures.
    """
    for settings in infer.infer.scorers if infer else ():
        scorer = make_scorer(settings)
        scorer.load(device)
        assert infer is not None
        scorer.measure(sheet[:1], [Request(infer.pairs[0].prompt, infer.pairs[0].negative_prompt)])


def _encoded(
    teacher: TeacherSource, evaluate: Evaluate, pairs: Sequence[Pair], device: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the conditioning of all prompts by name, and the prompts beyond the encoder's tokens."""
    encoder = TextEncoder(teacher.source, device, teacher.loras)
    texts = {"null": [""], "sheet": list(evaluate.sheet_prompts)}
    if prompts := scored_prompts(evaluate):
        texts["scored"] = prompts
    if pairs:
        negatives = [pair.negative_prompt for pair in pairs]
        texts["pairs"] = [pair.prompt for pair in pairs]
        texts["negatives"] = negatives[:1] if len(set(negatives)) == 1 else negatives
    tensors: dict[str, Tensor] = {}
    for name, prompts in texts.items():
        encoded = encoder.encode(prompts, negative=name in ("null", "negatives"))
        for part, tensor in _halved(teacher.source, encoded).parts.items():
            tensors[name if part == "embeddings" else f"{name}_{part}"] = tensor.contiguous()
    every = sorted({prompt for prompts in texts.values() for prompt in prompts})
    return tensors, [text for text, end in zip(every, encoder.dropped(every), strict=True) if end is not None]


def _halved(source: str, encoded: Conditioning) -> Conditioning:
    try:
        return encoded.half()
    except ValueError as error:
        raise ValueError(f"backbone {source!r}: {error}") from None
