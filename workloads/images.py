"""Conversion between tensors and PIL images, and contact sheets with captions.

Shapes: N rows, P pixels a side.
"""

import importlib.util
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL = 128
"""Side of one picture in a sheet, in pixels, as are the widths below."""
CAPTION_WIDTH = 240
HEADER = 22
MARGIN = 4
CAPTION_LINES = 7
FONT_SIZE = 12
FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"
"""Font of captions, in the folder of matplotlib: letters of most European and some other scripts."""
NO_CHARACTER = "\U0010ffff"
"""Code point that no font has."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def to_image(picture: Tensor) -> Image.Image:
    """Convert a picture (3, P, P) in [-1, 1] to an RGB image of P x P pixels."""
    pixels = ((picture.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def from_image(image: Image.Image) -> Tensor:
    """Convert an image of P x P pixels to a tensor (3, P, P) in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32))
    return pixels.permute(2, 0, 1) / 127.5 - 1


def contact_sheet(prompts: Sequence[str], columns: Mapping[str, Tensor], title: str = "") -> Image.Image:
    """Return a sheet with a row per prompt (N) and a column per arm, each (N, 3, P, P) in [-1, 1].

    Pictures smaller than a cell are enlarged without interpolation, larger ones are reduced smoothly. A
    character that the font lacks is written as its code; see `missing_characters`.
    """
    width = CAPTION_WIDTH + len(columns) * (CELL + MARGIN)
    top = 2 * HEADER if title else HEADER
    sheet = Image.new("RGB", (width, top + len(prompts) * (CELL + MARGIN)), "white")
    draw, font = ImageDraw.Draw(sheet), _font()
    if title:
        draw.text((CAPTION_WIDTH, 4), drawable(title), "black", font)
    for index, (name, pictures) in enumerate(columns.items()):
        left = CAPTION_WIDTH + index * (CELL + MARGIN)
        draw.text((left, top - HEADER + 3), drawable(name), "black", font)
        for row, picture in enumerate(pictures):
            sheet.paste(_cell(to_image(picture)), (left, top + row * (CELL + MARGIN)))
    for row, prompt in enumerate(prompts):
        draw.text((MARGIN, top + row * (CELL + MARGIN) + 4), caption(prompt, row + 1), "black", font)
    return sheet


def caption(prompt: str, number: int) -> str:
    """Return the lines of a caption, which ends with "..." where it is cut.

    If the font lacks a character of `prompt`, the caption begins with the prompt's `number`: long texts in
    codes are cut early and may begin alike.
    """
    shown = drawable(prompt)
    lines = list(_wrapped(shown if shown == " ".join(prompt.split()) else f"{number}: {shown}"))
    if len(lines) > CAPTION_LINES:
        lines[CAPTION_LINES - 1 :] = [f"{lines[CAPTION_LINES - 1][:-3]}..."]
    return "\n".join(lines)


def drawable(text: str) -> str:
    """Return `text` in one line, with each character that the font lacks as its code in braces: {4E2D}."""
    return "".join(c if _has(c) else f"{{{ord(c):X}}}" for c in " ".join(text.split()))


def missing_characters(texts: Sequence[str]) -> str:
    """Return the distinct characters that the font of captions lacks, in the order of their codes."""
    return "".join(c for c in sorted(set("".join(" ".join(texts).split()))) if not _has(c))


def side_by_side(sheets: Sequence[Image.Image]) -> Image.Image:
    """Join `sheets` of the same prompts from left to right; only the first keeps its captions."""
    sheets = [*sheets[:1], *(s.crop((CAPTION_WIDTH, 0, s.width, s.height)) for s in sheets[1:])]
    size = (sum(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets))
    whole, left = Image.new("RGB", size, "white"), 0
    for sheet in sheets:
        whole.paste(sheet, (left, 0))
        left += sheet.width
    return whole


def _cell(image: Image.Image) -> Image.Image:
    enlarge = image.width < CELL
    return image.resize((CELL, CELL), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


@lru_cache(maxsize=2)
def _font(layout: ImageFont.Layout | None = None) -> Font:
    """Return the font of matplotlib, which is not imported; Pillow's own, with fewer letters, without it."""
    found = importlib.util.find_spec("matplotlib")
    file = Path(found.origin).parent / FONT if found and found.origin else None
    if file is None or not file.exists():
        return ImageFont.load_default(FONT_SIZE)
    return ImageFont.truetype(file, FONT_SIZE, layout_engine=layout)


@lru_cache(maxsize=4096)
def _has(character: str) -> bool:
    """Return true if the font draws `character` in another way than one that it cannot have."""
    if unicodedata.category(character) in ("Cc", "Cs"):
        return False
    # The other layout draws a combining mark on a circle of its own.
    font = _font(ImageFont.Layout.BASIC)
    return bytes(font.getmask(character)) != bytes(font.getmask(NO_CHARACTER))


def _wrapped(text: str) -> Iterator[str]:
    """Yield lines no wider than a caption; words that are wider alone are broken."""
    line = ""
    for word in text.split():
        line = f"{line} {word}" if line else word
        while _width(line) > CAPTION_WIDTH - 2 * MARGIN:
            end = _end(line)
            yield line[:end].rstrip()
            line = line[end:].lstrip()
    if line:
        yield line


def _end(line: str) -> int:
    """Return where to break a line that is too wide: at its last space that fits, else within a word."""
    fits = max((n for n in range(1, len(line)) if _width(line[:n]) <= CAPTION_WIDTH - 2 * MARGIN), default=1)
    space = line.rfind(" ", 0, fits + 1)
    return space if space > 0 else fits


def _width(text: str) -> float:
    return _font().getlength(text)
