"""Evaluation of a student during its training: contact sheets beside the teacher, and scores.

Runs on rank 0, with the averaged weights, on the same prompts and the same noise every time.
Shapes: N pictures, P pixels a side.
"""

import copy
import io
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.common.storage import Store
from orchestrator.evaluation.reference import Reference, score_pictures
from orchestrator.jobs import SECONDS_PER_PICTURE, StepReport, TrainingJob
from orchestrator.reporting.formatting import network_calls
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.images import contact_sheet
from workloads.layers.lora import AdapterSet
from workloads.scorers.score import Score
from workloads.settings.train import TrainSettings
from workloads.students.ema import copy_weights, exchanged_weights
from workloads.students.sampler import at_scale
from workloads.students.scale_range import ScaleRange
from workloads.students.student import (
    decode,
    generate,
    load_autoencoder,
    new_student,
    save_student,
)
from workloads.students.unroll import draw_noise


class Evaluator:
    """Draws and scores with fixed prompts and noise; holds the autoencoder, and a copy of a whole student."""

    def __init__(
        self,
        job: TrainingJob,
        backbone: Backbone,
        student: nn.Module,
        reference: Reference,
        store: Store,
    ) -> None:
        """Copy a whole `student`, to draw with the averaged weights, and load the autoencoder.

        Adapters are small: they are exchanged in the student itself, while it draws.
        """
        self._job, self._backbone, self._reference, self._store = job, backbone, reference, store
        shared = isinstance(student, AdapterSet)
        self._student = student if shared else copy.deepcopy(student).requires_grad_(False).eval()
        self._vae = load_autoencoder(backbone.source, backbone.device)
        self._scales = _scales(job.trial.train)

    def evaluate(self, averaged: Mapping[str, Tensor], step: int) -> StepReport:
        """Write the contact sheet of this step and measure the scores.

        Args:
            averaged: the student's averaged weights, by name.
            step: the last finished step.
        """
        # Adapters share their network with the training, which may be compiled for its own shapes.
        with self._with_weights(averaged), torch.compiler.set_stance("force_eager"):
            return self._draw_and_score(step)

    def _with_weights(self, averaged: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        if isinstance(self._student, AdapterSet):
            return exchanged_weights(averaged, self._student)
        copy_weights(averaged, self._student)
        return nullcontext()

    def _draw_and_score(self, step: int) -> StepReport:
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
        student = self._student_on_host()
        copy_weights(averaged, student)
        with tempfile.TemporaryDirectory() as folder:
            save_student(self._backbone, student, Path(folder) / "student", self._scales)
            self._store.put_folder(Path(folder) / "student", self._job.student)

    def _student_on_host(self) -> nn.Module:
        """Return the student in float32, as bfloat16 has fewer digits than the average.

        It is on the host, as a GPU that is full of its training has no memory for it.
        """
        if not isinstance(self._student, AdapterSet):
            return self._student.to("cpu", torch.float32)
        train = self._job.trial.train
        teacher = load_backbone(self._backbone.source, loras=self._backbone.loras)
        return new_student(teacher, train.start_from, train.student_lora)

    def _pictures(self, prompts: Conditioning) -> Tensor:
        """Return the student's pictures (N, 3, P, P), in [-1, 1], of N prompts."""
        backbone = self._backbone
        generator = torch.Generator("cpu").manual_seed(self._job.evaluate.seed)
        noise = draw_noise(backbone, len(prompts), generator)
        moved = at_scale(prompts.to(backbone.device, backbone.dtype), self._scales, None)
        latents = generate(backbone, self._student, noise.to(backbone.device), moved)
        return decode(self._vae, latents)


def _scales(train: TrainSettings) -> ScaleRange | None:
    """Return the guidance scales of a student that reads them; it is evaluated at the neutral one."""
    if train.read_scales is None or train.neutral_scale is None:
        return None
    return ScaleRange(*train.read_scales, default=train.neutral_scale, neutral=train.neutral_scale)
