"""Settings of a sweep file that an earlier version named otherwise, or had and this one lacks.

An error names the remedy, and launch digests are computed with the old names and with the removed settings
at their former defaults, so that a launch keeps its digest across versions.
"""

from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[tuple[str, str], str] = {
    ("evaluate", "times"): "evaluations",
    ("infer", "most_lost"): "max_accuracy_loss",
    ("resources", "hang_seconds"): "hang_timeout_s",
    ("resources", "checkpoints_kept"): "keep_checkpoints",
    ("resources", "trials_at_once"): "max_concurrent_trials",
}
"""New name of each renamed setting, by section and old name."""
REMOVED: Mapping[tuple[str, str], object] = {("infer", "sheet_pairs"): 8, ("infer", "keep_pictures"): False}
"""Former default of each removed setting, by section and name."""
ADDED: Mapping[tuple[str, str], object] = {("budget", "no_progress_minutes"): None}
"""Default of each setting that was added later, by section and name; at its default it is in no digest."""


def remedy(key_path: tuple[str | int, ...]) -> str | None:
    """Return what to do about the renamed or removed setting at `key_path`; None for any other."""
    section, *rest = key_path
    key = (str(section), str(rest[0]) if len(rest) == 1 else "")
    if key in RENAMED:
        return f"this setting is called {RENAMED[key]!r} now: rename it"
    return "this setting was removed: delete it" if key in REMOVED else None


def in_old_form(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dumped sweep with renamed settings under their old names, with removed settings, and without
    added ones that are at their defaults."""
    dumped = {
        section: dict(values) if isinstance(values, dict) else values for section, values in sweep.items()
    }
    for (section, old), new in RENAMED.items():
        if isinstance(dumped.get(section), dict):
            dumped[section][old] = dumped[section].pop(new)
    for (section, name), default in REMOVED.items():
        if isinstance(dumped.get(section), dict):
            dumped[section][name] = default
    for (section, name), default in ADDED.items():
        if isinstance(dumped.get(section), dict) and dumped[section].get(name) == default:
            dumped[section].pop(name, None)
    return dumped
