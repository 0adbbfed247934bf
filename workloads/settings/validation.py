"""Checks that settings run on their own values when they are read.

The settings are standard dataclasses, so the checks also hold where no pydantic validates them.
"""

import math
from collections.abc import Mapping
from typing import Any

STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""Pydantic configuration of all settings: unknown keys, NaN and infinity are errors."""


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check that each named setting lies in its range, both ends included.

    Raises:
        ValueError: A setting is out of range; the message begins with its name.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            end = "" if high == math.inf else f" and at most {high:,}"
            raise ValueError(f"{name} must be at least {low:,}{end}, not {value}")


def check_positive(settings: object, names: tuple[str, ...]) -> None:
    """Check that each named setting is above 0.

    Raises:
        ValueError: A setting is not; the message begins with its name.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be above 0, not {getattr(settings, name)}")
