"""The reference of a backbone: written and read back, in a family with every kind of conditioning."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Evaluate, Teacher
from orchestrator.evaluation.make_reference import make_reference
from orchestrator.evaluation.reference import load_reference, score_pictures, scored_prompts
from tests.support import tiny_sdxl
from workloads.backbones.backbone import load_backbone
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.world import named_attributes, random_scene, render
from workloads.students.student import decode, load_autoencoder


def test_pooled_embeddings_are_kept(tmp_path: Path) -> None:
    source, store = str(tmp_path / "teacher"), str(tmp_path / "results")
    tiny_sdxl.save(Path(source))
    long = "a blue cross " * 8
    evaluate = Evaluate(sheet_prompts=["a red circle", long], scorers=[], teacher=Teacher(steps=2))
    reference = load_reference(Store(store), make_reference(TeacherSource(source), evaluate, None, store))
    encoder = TextEncoder(source)
    for read, prompts in ((reference.null, [""]), (reference.sheet, list(evaluate.sheet_prompts))):
        for name, part in encoder.encode(prompts).parts.items():
            torch.testing.assert_close(read.parts[name].float(), part, rtol=1e-3, atol=1e-3)
    assert reference.teacher_sheet.shape == (2, 3, 16, 16)
    assert reference.cut == tuple(evaluate.sheet_prompts[1:])


@pytest.mark.parametrize("teacher", TEACHERS)
def test_each_miniature_has_a_reference(teacher: str, tmp_path: Path) -> None:
    """SANA's autoencoder returns channels last, which safetensors does not write."""
    source, store = str(WEIGHTS / teacher), str(tmp_path)
    evaluate = Evaluate(sheet_prompts=["a red circle"], scorers=[], teacher=Teacher(steps=1))
    sheet = load_reference(
        Store(store), make_reference(TeacherSource(source), evaluate, None, store)
    ).teacher_sheet
    assert sheet.is_contiguous()
    student = load_backbone(source)
    assert decode(load_autoencoder(source), torch.randn(1, *student.latent_shape)).is_contiguous()


MINIATURE_CLIP = {"name": "clip", "weights": "miniature/clip"}


def test_scorers_use_the_sheets_prompts_in_turn() -> None:
    """More pictures than it sees at once; each beside its own prompt."""
    prompts = ["a large red circle", "a large blue cross"]
    evaluate = Evaluate.model_validate({"sheet_prompts": prompts, "samples": 70, "scorers": [MINIATURE_CLIP]})
    assert scored_prompts(evaluate) == prompts * 35
    rng = random.Random(0)
    scenes = [replace(random_scene(rng), **named_attributes(prompt)) for prompt in prompts * 35]
    pictures = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes]))
    (score,) = score_pictures(pictures, evaluate, "cpu")
    (swapped,) = score_pictures(pictures.roll(1, 0), evaluate, "cpu")
    assert (score.metric, score.samples) == ("clip_plus", 70)
    assert score.low > swapped.high


def test_a_scorer_without_options_keeps_its_short_form() -> None:
    """The digest of a reference, and what is kept with a result, are of this."""
    scorers = ["attributes", MINIATURE_CLIP]
    evaluate = Evaluate.model_validate({"sheet_prompts": ["a circle"], "scorers": scorers})
    assert evaluate.model_dump(mode="json")["scorers"] == scorers
    assert evaluate.ranking_metrics == ["attribute_accuracy", "clip_plus"]
