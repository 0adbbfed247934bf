"""What a student was made from, stored in its folder: the base model that its LoRA is relative to.

Imports no torch.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "base_model.json"
"""File in a student's folder that holds its origin."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""File in an adapter student's folder that holds its adapters; where diffusers looks for a LoRA."""
CARD = "README.md"
CARD_KEY = "base_model:"
"""Entry of a model card's head that names the base model."""


@dataclass(frozen=True)
class Origin:
    """The base model of a student, and what was changed before the training."""

    base: str
    """Folder or hub id of the base model, with its revision if one was given, or `miniature/NAME`."""
    loras: tuple[str, ...] = ()
    """LoRA files that the teacher has in addition to the base model."""
    start_from: str | None = None
    """Pipeline whose network the student started from, if not from its teacher's."""

    @property
    def adapters_are_of_base(self) -> bool:
        """True if the student's adapters are relative to the base model itself."""
        return not self.loras and self.start_from is None


def save_origin(folder: Path, origin: Origin) -> None:
    """Write `origin` into a student's folder."""
    (folder / FILE).write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")


def load_origin(folder: Path) -> Origin | None:
    """Return the origin in a student's folder; None if it is not known.

    Older students have it in the head of their card alone.

    Raises:
        ValueError: the file is not one that `save_origin` writes.
    """
    path = folder / FILE
    if not path.exists():
        base = _card_entry(folder / CARD)
        return None if base is None else Origin(base)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        origin = Origin(content["base"], tuple(content["loras"]), content["start_from"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(f"{FILE} of the student is not valid: name its base model yourself") from None
    if not isinstance(origin.base, str) or not origin.base:
        raise ValueError(f"{FILE} of the student names no base model: name it yourself")
    return origin


def _card_entry(card: Path) -> str | None:
    """Return the base model in the head of a card; None if there is no card or no such entry."""
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.exists() else []
    if not lines or lines[0] != "---":
        return None
    entries = (line.removeprefix(CARD_KEY).strip() for line in lines if line.startswith(CARD_KEY))
    return next((entry for entry in entries if entry), None)
