"""The guidance that a student's negative prompts get by default, noted in its folder; no torch."""

import json
from dataclasses import asdict
from pathlib import Path

from workloads.settings.train import AttentionGuidanceSettings

FILE = "attention_guidance.json"


def save_defaults(folder: Path, settings: AttentionGuidanceSettings) -> None:
    """Notes `settings` in a student's folder."""
    (folder / FILE).write_text(json.dumps(asdict(settings), indent=2) + "\n")


def load_defaults(folder: Path) -> AttentionGuidanceSettings:
    """What `save_defaults` noted; none for a student without."""
    path = folder / FILE
    values = json.loads(path.read_text()) if path.exists() else {}
    return AttentionGuidanceSettings(**values)
