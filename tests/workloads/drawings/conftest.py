"""A made-up table of pictures: coloured bars, in place of other people's drawings."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from workloads.drawings.pictures import Drawings, read_drawings
from workloads.drawings.subjects import STYLES

SUBJECTS = ("red apple", "bus", "tulip", "check mark button", "owl")


def png(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[8 * (seed % 4) :][:24, 8:56] = rng.integers(0, 255, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows() -> list[dict[str, object]]:
    subgroups = ("fruit", "ground transportation", "flowers", "other symbols", "birds")
    return [
        {
            "png": png(10 * place + number),
            "name": name,
            "keywords": ["wide", "two words", "three long words", "✓", name],
            "subgroup": subgroups[place],
            "style": style,
            "codepoints": f"1f{place}",
        }
        for place, name in enumerate(SUBJECTS)
        for number, style in enumerate([*STYLES, "twemoji"])
    ]


def write_table(path: Path, content: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(content), path)
    return path


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("drawings") / "table.parquet", rows())


@pytest.fixture(scope="session")
def drawings(table: Path) -> Drawings:
    return read_drawings(table, SUBJECTS)
