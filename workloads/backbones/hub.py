"""The source of a pipeline: a folder, or an id on the hub with an optional revision: `owner/name@revision`.

A revision is a commit, a tag or a branch of the hub's repository. A commit keeps its files for ever.
"""

from pathlib import Path


def split_source(source: str) -> tuple[str, str | None]:
    """Return the folder or hub id of `source`, and the revision if one is given."""
    if "@" not in source or Path(source).exists():
        return source, None
    name, _, revision = source.rpartition("@")
    return name, revision
