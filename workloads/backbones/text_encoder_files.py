"""Files of a backbone's text encoders: their folder and a digest of their content.

Separate from `text_encoder`, so that the driver need not import the libraries that load them.
"""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download

from workloads.backbones.families import family_of
from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line


def encoder_digest(source: str) -> str:
    """Return a SHA-256 of everything that encoded prompts depend on.

    It covers the files of tokenizers and text encoders, and whether prompts are lowercased.

    Raises:
        ValueError: A file is missing or cannot be read.
    """
    try:
        digest = files_digest(encoder_folder(source), _component_names(source))
    except OSError as error:
        raise ValueError(f"backbone {source!r}: {error.filename} cannot be read: {error.strerror}") from None
    if family_of(source).lowercase:  # shards made with capital letters must not be reused
        return hashlib.sha256(f"lower case {digest}".encode()).hexdigest()
    return digest


def files_digest(folder: Path, subfolders: list[str]) -> str:
    """Return a SHA-256 of the names and contents of the files in `subfolders` of `folder`."""
    digest = hashlib.sha256()
    for path in sorted(p for name in subfolders for p in (folder / name).iterdir() if p.is_file()):
        digest.update(f"{path.parent.name}/{path.name}\0".encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def encoder_folder(source: str) -> Path:
    """Return the folder of `source`; a hub id is downloaded to the hub's cache first.

    Raises:
        ValueError: The hub does not have the model or cannot be reached.
    """
    if Path(source).exists():
        return Path(source)
    wanted = [f"{part}/*" for part in _component_names(source)]
    name, revision = split_source(source)
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*.bin"])
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"backbone {source!r}: its text encoder cannot be downloaded: {one_line(error)}"
        ) from None


def _component_names(source: str) -> list[str]:
    family = family_of(source)
    return [name for name, _ in family.text_encoders] + list(family.tokenizers)
