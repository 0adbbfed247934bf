"""The files of a backbone's text encoders: where they are, and a digest of them.

Apart from `text`, so that the driver need not import what loads them.
"""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download

from workloads.backbones.families import family_of


def encoder_digest(source: str) -> str:
    """SHA-256 over the files of the tokenizers and the text encoders, and over how they are used: what
    shards depend on.

    Raises:
        ValueError: one of them is not there, or cannot be read.
    """
    try:
        digest = files_digest(encoder_folder(source), _parts(source))
    except OSError as error:
        raise ValueError(f"backbone {source!r}: {error.filename} cannot be read: {error.strerror}") from None
    if family_of(source).lowercase:  # shards that were made with capital letters are not these
        return hashlib.sha256(f"lower case {digest}".encode()).hexdigest()
    return digest


def files_digest(folder: Path, parts: list[str]) -> str:
    """SHA-256 over the files in the subfolders `parts` of `folder`, with their names."""
    digest = hashlib.sha256()
    for path in sorted(p for part in parts for p in (folder / part).iterdir() if p.is_file()):
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def encoder_folder(source: str) -> Path:
    """The folder of `source`, fetched through the hub cache when it is a hub id.

    Raises:
        ValueError: the hub does not have it, or is out of reach.
    """
    if Path(source).exists():
        return Path(source)
    wanted = [f"{part}/*" for part in _parts(source)]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted, ignore_patterns=["*.bin"]))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"backbone {source!r}: its text encoder cannot be fetched: {reason}") from None


def _parts(source: str) -> list[str]:
    family = family_of(source)
    return [part for part, _ in family.text_encoders] + list(family.tokenizers)
