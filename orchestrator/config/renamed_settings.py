"""Settings of a sweep file that had another name in an earlier version.

The old name is refused with the new one, and digests are computed under the old names, so that a launch
keeps its digest across versions.
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


def new_name(key_path: tuple[str | int, ...]) -> str | None:
    """Return the new name of the setting at `key_path`; None if it was never renamed."""
    section, *rest = key_path
    return RENAMED.get((str(section), str(rest[0]))) if len(rest) == 1 else None


def under_old_names(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dumped sweep with every renamed setting under its old name."""
    dumped = {
        section: dict(values) if isinstance(values, dict) else values for section, values in sweep.items()
    }
    for (section, old), new in RENAMED.items():
        if isinstance(dumped.get(section), dict):
            dumped[section][old] = dumped[section].pop(new)
    return dumped
