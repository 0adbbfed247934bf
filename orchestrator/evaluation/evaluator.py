"""Evaluation of a student during its training: contact sheets beside the teacher, and scores.

Runs on rank 0, with the averaged weights, on the same prompts and the same noise every time.
Shapes: N pictures, P pixels a side.
"""

import copy
import io
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.common.storage import Store
from orchestrator.evaluation.reference import Reference, score_pictures
from orchestrator.jobs import SECONDS_PER_PICTURE, StepReport, TrainingJob
from orchestrator.reporting.formatting import network_calls
from workloads.backbones.backbone import Backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.images import contact_sheet
from workloads.scorers.score import Score
from workloads.students.ema import copy_weights
from workloads.students.student import decode, generate, load_autoencoder, save_student
from workloads.students.unroll import draw_noise


class Evaluator:
    """Draws and scores with fixed prompts and noise; holds a copy of the student and the autoencoder."""

    def __init__(
        self,
        job: TrainingJob,
        backbone: Backbone,
        student: nn.Module,
        reference: Reference,
        store: Store,
    ) -> None:
        """Copy `student`, to draw with the averaged weights, and load the autoencoder."""
        self._job, self._backbone, self._reference, self._store = job, backbone, reference, store
        self._student = copy.deepcopy(student).requires_grad_(False).eval()
        self._vae = load_autoencoder(backbone.source, backbone.device)

    def evaluate(self, averaged: Mapping[str, Tensor], step: int) -> StepReport:
        """Write the contact sheet of this step and measure the scores.

        Args:
            averaged: the student's averaged weights, by name.
            step: the last finished step.
        """
        copy_weights(averaged, self._student)
        sheet = self._pictures(self._reference.sheet)
        trial, evaluate = self._job.trial, self._job.evaluate
        calls = network_calls(self._backbone.student_steps)
        columns = {"teacher": self._reference.teacher_sheet, f"student, {calls}": sheet}
        image = contact_sheet(list(evaluate.sheet_prompts), columns, f"{trial.name}  step {step}")
        content, name = io.BytesIO(), f"{self._job.folder}/sheets/step-{step:06d}.png"
        image.save(content, "png")
        self._store.write(name, content.getvalue())
        scores: tuple[Score, ...] = ()
        metrics: dict[str, float] = {}
        if self._reference.scored is not None:
            began = time.perf_counter()
            pictures = self._pictures(self._reference.scored)
            metrics[SECONDS_PER_PICTURE] = (time.perf_counter() - began) / len(pictures)
            scores = tuple(score_pictures(pictures, evaluate, str(self._backbone.device)))
        return StepReport(step, metrics, name, scores)

    def save(self, averaged: Mapping[str, Tensor]) -> None:
        """Save the averaged student as a pipeline folder in the storage."""
        # In float32, as bfloat16 has fewer digits than the average; on the host, as a GPU that is full of its
        # training has no memory for it.
        copy_weights(averaged, self._student.to("cpu", torch.float32))
        with tempfile.TemporaryDirectory() as folder:
            save_student(self._backbone, self._student, Path(folder) / "student")
            self._store.put_folder(Path(folder) / "student", self._job.student)

    def _pictures(self, prompts: Conditioning) -> Tensor:
        """Return the student's pictures (N, 3, P, P), in [-1, 1], of N prompts."""
        backbone = self._backbone
        generator = torch.Generator("cpu").manual_seed(self._job.evaluate.seed)
        noise = draw_noise(backbone, len(prompts), generator)
        moved = prompts.to(backbone.device, backbone.dtype)
        latents = generate(backbone, self._student, noise.to(backbone.device), moved)
        return decode(self._vae, latents)
