"""One small trial of the second search: a student draws every pair at one guidance scale and strength.

At a guidance scale, without attention guidance, `scale_task` scores it as well. The pictures of pairs are
written to the storage as one parquet file with a row for each: the digest of its `arm`, its `row`, the number
of its `pair`, `prompt`, `negative_prompt`, `style`, and `png`. `scoring` reads the file and then deletes it.
"""

import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.common.storage import Store
from orchestrator.config.gpu_sharing import limit_gpu_memory
from orchestrator.evaluation.scale_task import measure_at_scale
from orchestrator.jobs import InferenceJob

if TYPE_CHECKING:  # it loads torch
    from orchestrator.evaluation.reference import Reference

NOT_NEEDED = (
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "safety_checker",
    "feature_extractor",
)
"""Parts of a student that drawing from encoded prompts does not use; T5 alone is gigabytes in a bucket."""


def draw(job: InferenceJob) -> int:
    """Draw and write the pictures unless they exist; return the number of those of pairs."""
    # Imported here: the driver imports this module and need not load diffusers.
    from orchestrator.evaluation.reference import load_reference

    store = Store(job.root)
    limit_gpu_memory(job.gpus)
    reference = load_reference(store, job.reference)
    with store.folder(job.student, without=NOT_NEEDED) as folder:
        if job.infer.scores_scale and not store.exists(job.at_scale):
            measure_at_scale(job, str(folder), reference)
        if job.pairs and not (store.exists(job.drawn) or store.exists(job.measured)):
            _draw_pairs(job, str(folder), reference, store)
    return len(job.pairs) * job.pictures


def _draw_pairs(job: InferenceJob, folder: str, reference: "Reference", store: Store) -> None:
    from workloads.images import to_image
    from workloads.students.sampler import draw_pairs

    assert reference.pairs is not None and reference.negatives is not None
    batches = draw_pairs(
        folder,
        reference.pairs,
        reference.negatives,
        job.infer.guidance,
        pictures=job.pictures,
        seed=job.seed,
        scale=job.infer.scale,
    )
    rows: list[dict[str, Any]] = []
    for numbers, pictures in batches:
        for number, picture in zip(numbers, pictures, strict=True):
            png = io.BytesIO()
            to_image(picture).save(png, "png")
            place = {"arm": job.infer.digest, "row": len(rows), "pair": number}
            rows.append({**place, **job.pairs[number].model_dump(), "png": png.getvalue()})
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    store.write(job.drawn, content.getvalue())
