"""One small trial of the second search: a student draws every pair at one strength.

Its pictures go to the storage as one parquet file, a row a picture: the digest of its `arm`, its
`row`, the number of its `pair`, `prompt`, `negative_prompt`, `style`, and `png`. `scoring` reads
them, and removes them when it has.
"""

import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Pair
from orchestrator.planning.inference import InferenceTrial


@dataclass(frozen=True)
class InferenceJob:
    """An `InferenceTrial`, and where its inputs and outputs are."""

    infer: InferenceTrial
    pairs: tuple[Pair, ...]
    pictures: int
    seed: int
    reference: str
    """File of the backbone's reference in the storage."""
    root: str
    """URI of the storage."""
    student: str
    """Folder of the student in the storage."""
    folder: str
    """Of the sweep in the storage."""

    @property
    def drawn(self) -> str:
        """File of the pictures in the storage."""
        return f"{self.folder}/pictures/{self.infer.digest}.parquet"

    @property
    def measured(self) -> str:
        """File of what was measured of them in the storage: the trial's result."""
        return f"{self.folder}/measured/{self.infer.digest}.parquet"


UNSEEN = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "safety_checker", "feature_extractor")
"""Parts of a student that pictures of encoded prompts do without, T5 among them: gigabytes from a bucket."""


def draw(job: InferenceJob) -> int:
    """Draws and writes the pictures, unless they are there; returns how many there are."""
    # Here, so that the driver, which makes jobs, does not load diffusers whole.
    from orchestrator.evaluation.reference import load_reference
    from workloads.images import to_image
    from workloads.students.sampler import draw_pairs

    store = Store(job.root)
    count = len(job.pairs) * job.pictures
    if store.exists(job.drawn) or store.exists(job.measured):
        return count
    reference = load_reference(store, job.reference)
    assert reference.pairs is not None and reference.negatives is not None
    rows: list[dict[str, Any]] = []
    with store.folder(job.student, without=UNSEEN) as folder:
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
