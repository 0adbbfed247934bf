"""The guidance scales of a student that reads them, stored in its folder; imports no torch."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FILE = "guidance_scale.json"
"""File in the folder of a student that reads guidance scales."""


@dataclass(frozen=True)
class ScaleRange:
    """Guidance scales of a student that reads them."""

    low: float
    high: float
    default: float
    neutral: float
    """Scale at which the network of a transformer draws by its own weights, as in stock pipelines."""

    def check(self, scale: float) -> float:
        """Return `scale`.

        Raises:
            ValueError: The student was not trained at it.
        """
        if not self.low <= scale <= self.high:
            raise ValueError(
                f"guidance scale {scale:g} is outside of the interval {self.low:g} to {self.high:g} that the "
                f"student was trained on"
            )
        return scale


def load_scales(folder: Path) -> ScaleRange | None:
    """Return the scales of the student in `folder`; None if it reads none.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        return ScaleRange(**{field.name: float(stored[field.name]) for field in fields(ScaleRange)})
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"its {FILE} does not hold the guidance scales of a student") from None


def save_scales(folder: Path, scales: ScaleRange) -> None:
    """Write the scales of a student into its folder."""
    (folder / FILE).write_text(json.dumps(asdict(scales), indent=2) + "\n")
