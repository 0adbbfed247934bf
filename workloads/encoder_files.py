"""The files of a backbone's text encoder: where they are, and a digest of them.

Apart from `text`, so that the driver need not import what loads them.
"""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download

PARTS = ("text_encoder", "tokenizer")


def encoder_digest(source: str) -> str:
    """SHA-256 over the files of the tokenizer and the text encoder: what shards depend on."""
    folder = encoder_folder(source)
    digest = hashlib.sha256()
    for path in sorted(p for part in PARTS for p in (folder / part).iterdir()):
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def encoder_folder(source: str) -> Path:
    """The folder of `source`, fetched through the hub cache when it is a hub id."""
    if Path(source).exists():
        return Path(source)
    return Path(
        snapshot_download(source, allow_patterns=[f"{part}/*" for part in PARTS], ignore_patterns=["*.bin"])
    )
