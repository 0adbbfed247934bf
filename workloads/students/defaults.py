"""Default attention guidance for a student's negative prompts, stored in its folder; imports no torch."""

import json
from dataclasses import asdict
from pathlib import Path

from workloads.settings.train import AttentionGuidanceSettings

FILE = "attention_guidance.json"
"""File in a student's folder that holds the settings."""


def save_defaults(folder: Path, settings: AttentionGuidanceSettings) -> None:
    """Write `settings` into a student's folder."""
    (folder / FILE).write_text(json.dumps(asdict(settings), indent=2) + "\n")


def load_defaults(folder: Path) -> AttentionGuidanceSettings:
    """Return the settings in a student's folder; kind "none" for a folder without them."""
    path = folder / FILE
    values = json.loads(path.read_text()) if path.exists() else {}
    return AttentionGuidanceSettings(**values)
