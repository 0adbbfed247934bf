"""Contact sheets of a student by strength or guidance scale: a row for each prompt, a column for each arm."""

import io
import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from PIL import Image

from workloads.images import contact_sheet, from_image, missing_characters
from workloads.settings.train import AttentionGuidanceSettings

logger = logging.getLogger(__name__)
MAX_SHOWN = 40
"""Missing characters that are printed."""


def sheet_of(captions: Sequence[str], examples: Mapping[str, Sequence[bytes]], title: str) -> bytes:
    """Return the sheet as a PNG.

    Args:
        captions: one for each row.
        examples: one PNG for each row at least, by the column's name, all from the same noise.
        title: heading of the sheet.
    """
    columns = {}
    for name, pngs in examples.items():
        shown = [from_image(Image.open(io.BytesIO(png))) for png in pngs[: len(captions)]]
        columns[name] = torch.stack(shown)
    content = io.BytesIO()
    contact_sheet(list(captions), columns, title).save(content, "png")
    return content.getvalue()


def report_missing_characters(texts: Iterable[str]) -> None:
    """Print one line with the characters of captions that the font of contact sheets lacks, if any."""
    if missing := missing_characters(list(texts)):
        shown = f"{missing[:MAX_SHOWN]}..." if len(missing) > MAX_SHOWN else missing
        logger.warning(
            "contact sheets: the font lacks %d characters of the captions; they are drawn as codes in braces "
            "after the row's number: %s", len(missing), shown,
        )  # fmt: skip


def column_name(guidance: AttentionGuidanceSettings) -> str:
    """Return kernel and strength, short enough for the head of a column."""
    if guidance.kind == "none":
        return "no guidance"
    return f"{'extrap.' if guidance.label == 'extrapolation' else guidance.label} {guidance.strength:g}"
