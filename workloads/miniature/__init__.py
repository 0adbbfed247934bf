"""A text-to-image problem small enough for a laptop: a world, a judge, three teachers.

`world` draws pictures whose attributes are known and words their captions, `judge` reads
the attributes back out of a picture, `networks` says what the three teachers are made of,
`recipe` trains them all (one command, seeded), `gallery` measures them, `weights/` holds what
was made: an ordinary diffusers pipeline folder per teacher, and the judge.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TEACHERS = ("unet-epsilon", "unet-v", "pixart")
