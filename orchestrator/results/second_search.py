"""What the small trials of a student left in the storage, as arms and contact sheets."""

from collections.abc import Sequence

from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Pair
from orchestrator.evaluation.scale_task import load_at_scale
from orchestrator.evaluation.scoring import EXAMPLE, load_measured
from orchestrator.evaluation.strength_curve import Measured, curve
from orchestrator.jobs import InferenceJob
from orchestrator.reporting.contact_sheet import column_name, sheet_of
from orchestrator.reporting.rows import ArmRow
from workloads.settings.scorers import ScorerSettings


def arms_of(store: Store, jobs: Sequence[InferenceJob], scorers: Sequence[ScorerSettings]) -> list[ArmRow]:
    """Return the arms of one student, whose finished small trials are `jobs`."""
    return curve([_measured(store, job) for job in jobs], scorers)


def _measured(store: Store, job: InferenceJob) -> Measured:
    table = load_measured(store, job) if job.pairs else None
    at_scale = load_at_scale(store, job).scores if job.infer.scores_scale else ()
    return Measured(job.infer.guidance, job.infer.scale, table, at_scale)


def strength_sheet(store: Store, jobs: Sequence[InferenceJob], pairs: Sequence[Pair]) -> bytes:
    """Return a PNG with a row for each pair and a column for each strength; empty without pairs."""
    if not pairs:
        return b""
    examples = {}
    for job in jobs:
        pngs = load_measured(store, job)[EXAMPLE]
        examples[column_name(job.infer.guidance)] = [bytes(png) for png in pngs if png]
    captions = [f"{pair.prompt}; NOT: {pair.negative_prompt}" for pair in pairs]
    return sheet_of(captions, examples, jobs[0].infer.student_name)


def scale_sheet(store: Store, jobs: Sequence[InferenceJob], prompts: Sequence[str]) -> bytes:
    """Return a PNG with a row for each prompt and a column for each guidance scale; empty without scales."""
    columns = {
        f"scale {job.infer.scale:g}": load_at_scale(store, job).sheet
        for job in jobs
        if job.infer.scores_scale
    }
    return sheet_of(prompts, columns, jobs[0].infer.student_name) if columns else b""
