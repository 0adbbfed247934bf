"""Contact sheet of a student by strength: a row for each pair, a column for each arm."""

import io
import logging
from collections.abc import Iterable, Sequence

import torch
from PIL import Image

from orchestrator.config.evaluation_schema import Pair
from workloads.images import contact_sheet, from_image, missing_characters
from workloads.settings.train import AttentionGuidanceSettings

logger = logging.getLogger(__name__)
MAX_SHOWN = 40
"""Missing characters that are printed."""


def strength_sheet(
    pairs: Sequence[Pair], examples: Sequence[tuple[AttentionGuidanceSettings, Sequence[bytes]]], title: str
) -> bytes:
    """Return the sheet as a PNG.

    Args:
        pairs: prompts and negative prompts, one for each row.
        examples: guidance and one PNG for each pair, by arm, all from the same noise.
        title: heading of the sheet.
    """
    columns = {}
    for guidance, pngs in examples:
        shown = [from_image(Image.open(io.BytesIO(png))) for png in pngs[: len(pairs)]]
        columns[column_name(guidance)] = torch.stack(shown)
    captions = [f"{pair.prompt}; NOT: {pair.negative_prompt}" for pair in pairs]
    content = io.BytesIO()
    contact_sheet(captions, columns, title).save(content, "png")
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
