"""What makes two things the same: a digest of what they are made of, which is their name."""

import hashlib
import json
from typing import Any


def digest(identity: Any) -> str:
    """SHA-256 of anything that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
