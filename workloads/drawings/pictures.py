"""Pictures and captions of the drawn world, read from a parquet table, with a fixed split.

The table has a row per picture with the columns `png` (64 x 64), `name`, `keywords`, `subgroup`, `style` and
`codepoints`. A cell is a pair of subject and style. A tenth of the cells is held out: no subject loses more
than one style, so a model has seen the subject and the style but not the two together.

Shapes: N pictures, P = 32 pixels a side; colour channels first.
"""

import hashlib
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from workloads.drawings.subjects import STYLES, SUBJECTS

PIXELS = 32
TABLE_PIXELS = 2 * PIXELS
HELD_OUT_SHARE = 0.1
SPLIT_SEED = 0
COLUMNS = ["png", "name", "keywords", "subgroup", "style", "codepoints"]


@dataclass(frozen=True)
class Cell:
    """Subject and style of one picture, with the words that its captions may use."""

    name: str
    style: str
    """Name of the style in the table, a key of `STYLES`."""
    keywords: tuple[str, ...]
    category: str
    """Subgroup of the subject in Unicode's order of emoji, for example "fruit"."""


@dataclass(frozen=True)
class Drawings:
    """The chosen pictures in the order of their cells, subject by subject."""

    cells: list[Cell]
    images: Tensor
    """(N, 3, P, P) in [-1, 1]."""
    held_out: Tensor
    """(N,) true for a cell that no training may see."""
    digest: str
    """SHA-256 of cells, split and picture files."""

    @property
    def training_rows(self) -> Tensor:
        """Indices of the cells to train on."""
        return (~self.held_out).nonzero().flatten()

    @property
    def held_out_rows(self) -> Tensor:
        """Indices of the cells that are held out."""
        return self.held_out.nonzero().flatten()


def read_drawings(path: Path, subjects: Sequence[str] = SUBJECTS) -> Drawings:
    """Read the pictures of `subjects` in all `STYLES`; raises ValueError if the table lacks one."""
    rows = _chosen_rows(path, subjects)
    cells = [Cell(row["name"], row["style"], tuple(row["keywords"]), row["subgroup"]) for row in rows]
    held_out = held_out_cells(cells)
    digest = hashlib.sha256()
    for cell, row in zip(cells, rows, strict=True):
        picture = hashlib.sha256(row["png"]).hexdigest()
        digest.update(f"{cell.name}\t{cell.style}\t{cell in held_out}\t{picture}\n".encode())
    images = torch.stack([_read_png(row["png"]) for row in rows])
    mask = torch.tensor([cell in held_out for cell in cells])
    return Drawings(cells, images, mask, digest.hexdigest())


def _chosen_rows(path: Path, subjects: Sequence[str]) -> list[dict[str, Any]]:
    table = pq.read_table(path, columns=COLUMNS, filters=[("style", "in", list(STYLES))])
    # A few subjects have two pictures in a style: variants of one emoji. The first code points win.
    rows = sorted(table.to_pylist(), key=lambda row: row["codepoints"], reverse=True)
    found = {(row["name"], row["style"]): row for row in rows}
    wanted = [(name, style) for name in subjects for style in STYLES]
    missing = [f"{name} ({style})" for name, style in wanted if (name, style) not in found]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} pictures, first {', '.join(missing[:5])}")
    return [found[cell] for cell in wanted]


def held_out_cells(cells: Sequence[Cell]) -> set[Cell]:
    """Return a tenth of `cells`, rounded, at most one a subject and as many of each style as of another."""
    rng = random.Random(SPLIT_SEED)
    subjects = list(dict.fromkeys(cell.name for cell in cells))
    count = min(round(HELD_OUT_SHARE * len(cells)), len(subjects))
    styles = list(STYLES)
    chosen = {name: styles[place % len(styles)] for place, name in enumerate(rng.sample(subjects, count))}
    return {cell for cell in cells if chosen.get(cell.name) == cell.style}


def _read_png(content: bytes) -> Tensor:
    """Return a picture as (3, P, P) in [-1, 1], each pixel the mean of four."""
    with Image.open(io.BytesIO(content)) as file:
        if file.size != (TABLE_PIXELS, TABLE_PIXELS):
            raise ValueError(f"a picture of the table is {file.size}, not {TABLE_PIXELS} pixels a side")
        pixels = np.asarray(file.convert("RGB").reduce(2), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()
