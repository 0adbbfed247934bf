"""What settings check of themselves, once, where they are read."""

import math
from collections.abc import Mapping
from typing import Any

STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""For validators that read it: an unknown key is an error, and so are NaN and infinity."""


def check_ranges(settings: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Checks that each setting lies in its range, both ends included.

    Raises:
        ValueError: its message begins with the setting's name.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            end = "" if high == math.inf else f" and at most {high:,}"
            raise ValueError(f"{name} must be at least {low:,}{end}, not {value}")


def check_positive(settings: object, names: tuple[str, ...]) -> None:
    """Checks that each of these settings is above 0.

    Raises:
        ValueError: its message begins with the setting's name.
    """
    for name in names:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must be above 0, not {getattr(settings, name)}")
