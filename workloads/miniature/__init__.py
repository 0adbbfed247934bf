"""A text-to-image problem small enough for a laptop: a world, a judge, three teachers.

`world` draws pictures whose attributes are known and words their captions, `judge` reads
the attributes back out of a picture, `networks` says what the three teachers are made of,
`recipe` trains them all (one command, seeded), `clip_recipe` a CLIP model of this world, `gallery`
measures the teachers, `weights/` holds what was made: an ordinary diffusers pipeline folder per
teacher, the judge, and the CLIP model.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TEACHERS = ("unet-epsilon", "unet-v", "pixart")
CLIP = "miniature/clip"
"""How settings name the shipped CLIP model."""


def clip_folder(source: str) -> str:
    """A CLIP model's folder or hub id as libraries know it."""
    return str(WEIGHTS / "clip") if source == CLIP else source
