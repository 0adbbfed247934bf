"""Text-to-image problem small enough for a laptop: a world, a judge, five teachers and a CLIP model.

`world` renders pictures with known attributes and writes captions for them, `judge` reads the attributes back
out of a picture, `networks` and `flow_networks` define the five teachers, `recipe` and `flow_recipe` train
judge and teachers (seeded), `clip_recipe` trains the CLIP model. `weights/` holds the results: a diffusers
pipeline folder per teacher, the judge, and the CLIP model. `gallery/` holds pictures of what they generate.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TEACHERS = ("unet-epsilon", "unet-v", "pixart", "sana", "sd3")
"""Folders of the shipped teachers under `WEIGHTS`."""
PREFIX = "miniature/"
"""Begins the names of the shipped models in settings."""
CLIP = f"{PREFIX}clip"
"""Name of the shipped CLIP model in settings."""


FEATURES = f"{PREFIX}latents"
"""Name of the shipped features of latents in settings."""
FEATURES_FILE = "latents.safetensors"


def features_file(source: str) -> str:
    """Return the file of the shipped features of latents for their name, and any other `source` as it is."""
    return str(WEIGHTS / FEATURES_FILE) if source == FEATURES else source


def teacher_folder(source: str) -> str:
    """Return the folder of a shipped teacher for its name, and any other `source` as it is."""
    return str(WEIGHTS / source.removeprefix(PREFIX)) if source.startswith(PREFIX) else source


def clip_folder(source: str) -> str:
    """Return the folder of the shipped CLIP model for its name, and any other `source` as it is."""
    return str(WEIGHTS / "clip") if source == CLIP else source
