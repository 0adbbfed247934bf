"""A student at one guidance scale, scored on the prompts of `evaluate` as it was at the end of its training.

The result is one JSON file in the storage: `scores`, and the `sheet`, a PNG for each sheet prompt in base64.
"""

import base64
import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from orchestrator.common.storage import Store
from orchestrator.jobs import InferenceJob
from workloads.scorers.score import Score, scores_from_json

if TYPE_CHECKING:  # it loads torch
    from orchestrator.evaluation.reference import Reference


@dataclass(frozen=True)
class AtScale:
    """Scores of a student at one guidance scale, and a PNG for each prompt of the contact sheet."""

    scores: tuple[Score, ...]
    sheet: tuple[bytes, ...]


def measure_at_scale(job: InferenceJob, folder: str, reference: "Reference") -> None:
    """Draw and score the student in the local `folder` at the job's scale, and write the result.

    Args:
        job: a trial with a guidance scale.
        folder: the student's, without text encoders.
        reference: that of its teacher.
    """
    # Imported here: the driver imports this module and need not load diffusers.
    from orchestrator.common.devices import process_device
    from orchestrator.evaluation.reference import score_pictures
    from workloads.images import to_image
    from workloads.students.sampler import draw_prompts

    pictures = {
        name: draw_prompts(folder, prompts, scale=job.infer.scale, seed=job.evaluate.seed)
        for name, prompts in (("sheet", reference.sheet), ("scored", reference.scored))
        if prompts is not None
    }
    scores: list[Score] = []
    if "scored" in pictures:
        scores = score_pictures(pictures["scored"], job.evaluate, process_device())
    pngs = []
    for picture in pictures["sheet"]:
        content = io.BytesIO()
        to_image(picture).save(content, "png")
        pngs.append(base64.b64encode(content.getvalue()).decode())
    Store(job.root).write_json(job.at_scale, {"scores": [asdict(s) for s in scores], "sheet": pngs})


def load_at_scale(store: Store, job: InferenceJob) -> AtScale:
    """Read what `measure_at_scale` wrote."""
    stored = store.read_json(job.at_scale)
    sheet = tuple(base64.b64decode(png) for png in stored["sheet"])
    return AtScale(tuple(scores_from_json(stored["scores"])), sheet)
