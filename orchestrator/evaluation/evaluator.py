"""Looking at a student while it trains: contact sheets beside the teacher, and scores.

Runs on rank 0, with the averaged weights, on the same prompts and the same noise every time.
Shapes: N pictures, C latent channels, H latent size.
"""

import copy
import io
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.common.storage import Store
from orchestrator.evaluation.reference import Reference, scores_of
from orchestrator.jobs import Metrics, TrainingJob
from workloads.backbones.backbone import Backbone
from workloads.backbones.conditioning import Conditioning
from workloads.images import contact_sheet
from workloads.students.ema import copy_weights
from workloads.students.student import decode, generate, load_autoencoder, save_student


class Evaluation:
    """The fixed prompts and noise of one trial, and the autoencoder to see them with."""

    def __init__(
        self,
        job: TrainingJob,
        backbone: Backbone,
        student: nn.Module,
        reference: Reference,
        store: Store,
    ) -> None:
        """Takes a copy of `student`, which then serves to draw with the averaged weights."""
        self._job, self._backbone, self._reference, self._store = job, backbone, reference, store
        self._student = copy.deepcopy(student).requires_grad_(False).eval()
        self._vae = load_autoencoder(backbone.source, backbone.device)

    def look(self, averaged: Mapping[str, Tensor], step: int) -> Metrics:
        """Writes the sheet of this step and measures the scores; returns them as metrics.

        `averaged`: the student's weights, by name.
        """
        copy_weights(averaged, self._student)
        sheet = self._pictures(self._reference.sheet)
        trial, evaluate = self._job.trial, self._job.evaluate
        columns = {"teacher": self._reference.teacher_sheet, "student, 1 call": sheet}
        image = contact_sheet(list(evaluate.sheet_prompts), columns, f"{trial.name}  step {step}")
        content, name = io.BytesIO(), f"{self._job.folder}/sheets/step-{step:06d}.png"
        image.save(content, "png")
        self._store.write(name, content.getvalue())
        metrics: Metrics = {"sheet": name}
        if self._reference.scored is not None:
            pictures = self._pictures(self._reference.scored)
            scores = scores_of(pictures, evaluate, str(self._backbone.device))
            metrics |= {"scores": [asdict(score) for score in scores]}
            metrics |= {score.metric: score.value for score in scores}
        return metrics

    def save(self, averaged: Mapping[str, Tensor]) -> None:
        """Puts the student, as a pipeline folder, where the job wants it."""
        # The file has more digits than bfloat16. Nothing is drawn any more, and a GPU that is full of its
        # training has no room for this.
        copy_weights(averaged, self._student.to("cpu", torch.float32))
        with tempfile.TemporaryDirectory() as folder:
            save_student(self._backbone, self._student, Path(folder) / "student")
            self._store.put_folder(Path(folder) / "student", self._job.student)

    def _pictures(self, prompts: Conditioning) -> Tensor:
        """(N, 3, P, P) in [-1, 1] of N prompts."""
        backbone = self._backbone
        generator = torch.Generator("cpu").manual_seed(self._job.evaluate.seed)
        noise = torch.randn((len(prompts), *backbone.latent_shape), generator=generator)
        moved = prompts.to(backbone.device, backbone.dtype)
        latents = generate(backbone, self._student, noise.to(backbone.device), moved)
        return decode(self._vae, latents)
