"""What trials share of a backbone is read as it was written, in a family with all there can be."""

from pathlib import Path

import torch

from orchestrator.reference import load_reference
from orchestrator.storage import Store
from orchestrator.sweep import Evaluate, Teacher
from orchestrator.teacher_reference import make_reference
from tests.workloads import tiny_sdxl
from workloads.text import TextEncoder


def test_pooled_embeddings_are_kept(tmp_path: Path) -> None:
    source, store = str(tmp_path / "teacher"), str(tmp_path / "results")
    tiny_sdxl.save(Path(source))
    evaluate = Evaluate(sheet_prompts=["a red circle", "a blue cross"], scorers=[], teacher=Teacher(steps=2))
    reference = load_reference(Store(store), make_reference(source, evaluate, None, store))
    encoder = TextEncoder(source)
    for read, prompts in ((reference.null, [""]), (reference.sheet, list(evaluate.sheet_prompts))):
        for name, part in encoder.encode(prompts).parts.items():
            torch.testing.assert_close(read.parts[name].float(), part, rtol=1e-3, atol=1e-3)
    assert reference.teacher_sheet.shape == (2, 3, 16, 16)
