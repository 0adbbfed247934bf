"""Miniature world: one coloured shape on a plain background, and captions of it.

    Scene (five attributes) -> render -> picture
                            -> random_caption -> prompt -> named_attributes

The attributes of a picture are known exactly, so whether it shows what a caption asks for can be measured.
Every function is deterministic in its seed or in the state of the generator that it gets.

Shapes: N pictures, P = 16 pixels a side unless another number is asked for; colour channels first.
"""

import random
import re
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

PIXELS = 16
SUBPIXELS = 8 * PIXELS
"""Subpixels along each side of a picture, for smooth edges."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross"),
    "colour": ("red", "yellow", "green", "blue", "purple"),
    "size": ("small", "large"),
    "position": ("left", "right", "top", "bottom"),
    "background": ("white", "black", "grey"),
}
SYNONYMS = {
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
    "purple": ("purple", "violet"),
    "grey": ("grey", "gray"),
}
OPENINGS = ("", "a", "the", "one", "a picture of a", "a drawing of a", "an image showing a")
MENTION_RATE = 0.75
"""Probability that a caption names an attribute."""

RGB = {
    "red": (220, 30, 35),
    "yellow": (245, 205, 20),
    "green": (30, 160, 60),
    "blue": (35, 75, 215),
    "purple": (150, 50, 175),
    "white": (245, 245, 245),
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
}
RADIUS = {"small": 2.9, "large": 4.6}
"""Radius of a shape in pixels."""
OFFSET = {"small": 4.4, "large": 3.0}
"""Pixels from the middle of the picture to the centre of the shape: a large one must stay inside."""
DIRECTION = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Content of a picture: one value for each of the five attributes."""

    shape: str
    colour: str
    size: str
    position: str
    background: str


def random_scene(rng: random.Random) -> Scene:
    """Return a scene with every attribute drawn uniformly and independently."""
    return Scene(**{name: rng.choice(values) for name, values in ATTRIBUTES.items()})


def render(scene: Scene, rng: random.Random, pixels: int = PIXELS) -> Picture:
    """Render `scene` with small random jitter of radius, centre and colours, as (3, P, P) in [-1, 1].

    P is `pixels`, a divisor of `SUBPIXELS`. The means of 2 x 2 pixels of a picture of 32 x 32 are the picture
    of 16 x 16.
    """
    radius = RADIUS[scene.size] + rng.uniform(-0.3, 0.3)
    dx, dy = DIRECTION[scene.position]
    middle = PIXELS / 2
    centre_x = middle + dx * OFFSET[scene.size] + rng.uniform(-0.5, 0.5)
    centre_y = middle + dy * OFFSET[scene.size] + rng.uniform(-0.5, 0.5)
    grid = (np.arange(SUBPIXELS) + 0.5) * PIXELS / SUBPIXELS
    inside = _inside(scene.shape, grid[None, :] - centre_x, grid[:, None] - centre_y, radius)
    side = (pixels, SUBPIXELS // pixels, pixels, SUBPIXELS // pixels)
    cover = inside.astype(np.float32).reshape(side).mean(axis=(1, 3))
    colour, background = _jittered(scene.colour, rng), _jittered(scene.background, rng)
    values = cover * colour[:, None, None] + (1 - cover) * background[:, None, None]
    picture: Picture = (values / 127.5 - 1).astype(np.float32)
    return picture


def _inside(
    shape: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], radius: float
) -> npt.NDArray[np.bool_]:
    """Return the mask of subpixels within a shape, for offsets `x` (1, S) and `y` (S, 1) from its centre."""
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.9 * radius
    if shape == "triangle":
        return (np.abs(x) <= 0.58 * (y + radius)) & (y <= 0.85 * radius)
    arm = 0.34 * radius
    return (np.minimum(np.abs(x), np.abs(y)) <= arm) & (np.maximum(np.abs(x), np.abs(y)) <= radius)


def _jittered(name: str, rng: random.Random) -> npt.NDArray[np.float32]:
    channels = [channel + rng.uniform(-8, 8) for channel in RGB[name]]
    return np.clip(np.asarray(channels, dtype=np.float32), 0, 255)


def random_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption that names a random, non-empty subset of the attributes in varied wording."""
    named = [name for name in ATTRIBUTES if rng.random() < MENTION_RATE]
    return caption(scene, named or [rng.choice(list(ATTRIBUTES))], rng)


def caption(scene: Scene, named: list[str], rng: random.Random) -> str:
    """Return a caption of `scene` that names the attributes in `named` and no others."""
    words = {k: rng.choice(SYNONYMS.get(v, (v,))) for k, v in asdict(scene).items() if k in named}
    adjectives = [words[name] for name in ("size", "colour") if name in words]
    noun = " ".join([*adjectives, words.get("shape", "shape")])
    parts = [f"{rng.choice(OPENINGS)} {noun}".strip()]
    if "position" in words:
        preposition = "on" if scene.position in ("left", "right") else "at"
        parts.append(f"{preposition} the {words['position']}")
    if "background" in words:
        parts.append(f"on a {words['background']} background")
        if rng.random() < 0.25:
            parts = [parts[-1], *parts[:-1]]
    return " ".join(parts)


def named_attributes(prompt: str) -> dict[str, str]:
    """Return the attributes that `prompt` names, as attribute -> value.

    Words are read in the sense that they have in this world ("left" is a position), and the first word for an
    attribute wins. A prompt from elsewhere may name nothing.
    """
    canonical = {word: value for value, words in SYNONYMS.items() for word in words}
    values = {value: name for name, options in ATTRIBUTES.items() for value in options}
    found: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", prompt.lower()):
        value = canonical.get(word, word)
        if value in values:
            found.setdefault(values[value], value)
    return found


def vocabulary() -> list[str]:
    """Return every word that a caption of this world can contain, sorted."""
    words = {"shape", "on", "at", "the", "a", "background"}
    words.update(word for opening in OPENINGS for word in opening.split())
    words.update(value for options in ATTRIBUTES.values() for value in options)
    words.update(word for synonyms in SYNONYMS.values() for word in synonyms)
    return sorted(words)


def captions(count: int, seed: int) -> list[str]:
    """Return `count` random captions; deterministic in `seed`."""
    rng = random.Random(seed)
    return [random_caption(random_scene(rng), rng) for _ in range(count)]


def dataset(count: int, seed: int, pixels: int = PIXELS) -> tuple[Picture, list[Scene], list[str]]:
    """Return N = `count` pictures (N, 3, P, P) in [-1, 1], their scenes and a caption of each."""
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    pictures = np.stack([render(scene, rng, pixels) for scene in scenes])
    return pictures, scenes, [random_caption(scene, rng) for scene in scenes]
