"""The prompt source `miniature:N`, which stands for N captions of the miniature world; light to import."""

from orchestrator.common.errors import UserError

PREFIX = "miniature:"
MAX_CAPTIONS = 10_000_000
SEED = 7
"""Seed of the captions."""


def caption_count(source: str) -> int | None:
    """Return N of the source `miniature:N`; None for any other source.

    Raises:
        UserError: N is not a number in range.
    """
    if not source.startswith(PREFIX):
        return None
    digits = source.removeprefix(PREFIX)
    # Python refuses to convert thousands of digits.
    number = int(digits) if digits.isdecimal() and digits.isascii() and len(digits) < 20 else 0
    if not 0 < number <= MAX_CAPTIONS:
        raise UserError(f"{source}: write miniature:N with N from 1 to {MAX_CAPTIONS:,}")
    return number
