"""Conversion between tensors and PIL images, and contact sheets with captions.

Shapes: N rows, P pixels a side.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL = 128
"""Side of one picture in a sheet, in pixels, as are the widths below."""
CAPTION_WIDTH = 240
HEADER = 22
MARGIN = 4


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

    Pictures smaller than a cell are enlarged without interpolation, larger ones are reduced smoothly.
    """
    width = CAPTION_WIDTH + len(columns) * (CELL + MARGIN)
    top = 2 * HEADER if title else HEADER
    sheet = Image.new("RGB", (width, top + len(prompts) * (CELL + MARGIN)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    if title:
        draw.text((CAPTION_WIDTH, 4), title, "black", font)
    for index, (name, pictures) in enumerate(columns.items()):
        left = CAPTION_WIDTH + index * (CELL + MARGIN)
        draw.text((left, top - HEADER + 3), name, "black", font)
        for row, picture in enumerate(pictures):
            sheet.paste(_cell(to_image(picture)), (left, top + row * (CELL + MARGIN)))
    for row, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 32)[:7])
        draw.text((MARGIN, top + row * (CELL + MARGIN) + 8), text, "black", font)
    return sheet


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
