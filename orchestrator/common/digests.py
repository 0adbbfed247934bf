"""Digests of settings, which name trials, launches and files."""

import hashlib
import json
from typing import Any


def digest(identity: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
