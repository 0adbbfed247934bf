"""Scores of the shipped miniature teachers, and a contact sheet of their images.

    python -m workloads.scorers.teacher_gallery [--samples 768] [--out workloads/miniature/gallery]

It prints each teacher's attribute accuracy and writes OUT/teachers.png.
"""

import argparse
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import Tensor

from workloads.backbones.teacher_pipeline import generate_images, open_pipeline
from workloads.images import contact_sheet
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.miniature.world import captions
from workloads.scorers.attributes import AttributeAccuracy

SHEET_PROMPTS = (
    "a large red circle on the left on a white background",
    "a small blue square at the top on a grey background",
    "a green triangle on the right on a black background",
    "a tiny yellow cross at the bottom on a black background",
    "a big purple square on a white background",
    "a blue circle",
)
STEPS, GUIDANCE_SCALE, SEED = 20, 3.0, 5


def main() -> None:
    """Print one line of accuracies per teacher, and write the contact sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=768, help="images per teacher that are scored (768)")
    parser.add_argument(
        "--out",
        type=Path,
        default=WEIGHTS.parent / "gallery",
        help="folder of the contact sheet (workloads/miniature/gallery)",
    )
    arguments = parser.parse_args()
    prompts, columns = captions(arguments.samples, SEED), {}
    for teacher in TEACHERS:
        pipeline = open_pipeline(str(WEIGHTS / teacher))
        columns[teacher] = _draw(pipeline, list(SHEET_PROMPTS))
        scores = AttributeAccuracy().score(_draw(pipeline, prompts), prompts)
        values = ", ".join(f"{score.metric} {score.value:.3f}" for score in scores)
        overall = scores[0]
        interval = f"{overall.low:.3f}-{overall.high:.3f}, {overall.samples} attributes"
        print(f"{teacher}: {values} (95 % interval {interval})", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    title = f"teachers, {STEPS} steps, guidance scale {GUIDANCE_SCALE:g}"
    contact_sheet(SHEET_PROMPTS, columns, title).save(arguments.out / "teachers.png")


def _draw(pipeline: DiffusionPipeline, prompts: list[str]) -> Tensor:
    return generate_images(pipeline, prompts, steps=STEPS, guidance_scale=GUIDANCE_SCALE, seed=SEED)


if __name__ == "__main__":
    main()
