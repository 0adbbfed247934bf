"""One small trial of the second search: a student draws every pair at one strength.

The pictures are written to the storage as one parquet file with a row for each: the digest of its `arm`, its
`row`, the number of its `pair`, `prompt`, `negative_prompt`, `style`, and `png`. `scoring` reads the file and
then deletes it.
"""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.common.storage import Store
from orchestrator.config.gpu_sharing import limit_gpu_memory
from orchestrator.jobs import InferenceJob

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
    """Draw and write the pictures unless they exist; return their number."""
    # Imported here: the driver imports this module and need not load diffusers.
    from orchestrator.evaluation.reference import load_reference
    from workloads.images import to_image
    from workloads.students.sampler import draw_pairs

    store = Store(job.root)
    count = len(job.pairs) * job.pictures
    if store.exists(job.drawn) or store.exists(job.measured):
        return count
    limit_gpu_memory(job.gpus)
    reference = load_reference(store, job.reference)
    assert reference.pairs is not None and reference.negatives is not None
    rows: list[dict[str, Any]] = []
    with store.folder(job.student, without=NOT_NEEDED) as folder:
        batches = draw_pairs(
            str(folder),
            reference.pairs,
            reference.negatives,
            job.infer.guidance,
            pictures=job.pictures,
            seed=job.seed,
        )
        for numbers, pictures in batches:
            for number, picture in zip(numbers, pictures, strict=True):
                png = io.BytesIO()
                to_image(picture).save(png, "png")
                place = {"arm": job.infer.digest, "row": len(rows), "pair": number}
                rows.append({**place, **job.pairs[number].model_dump(), "png": png.getvalue()})
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content)
    store.write(job.drawn, content.getvalue())
    return count
