"""Files of a backbone's text encoders, and a digest of everything that encoded prompts depend on.

Separate from `text_encoder`, so that the driver need not import the libraries that load them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from workloads.backbones.families import Family, family_of
from workloads.backbones.hub import split_source
from workloads.backbones.load_errors import one_line
from workloads.backbones.loras.entry import Lora
from workloads.backbones.loras.files import files_digests
from workloads.backbones.weight_files import weight_shapes

SANA_TOKENS = 300
"""Tokens of a prompt that SANA was trained with."""
INSTRUCTIONS = {
    "gemma": """\
Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for \
image generation. Evaluate the level of detail in the user prompt:
- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial \
relationships to create vivid and concrete scenes.
- If the prompt is already detailed, refine and enhance the existing details slightly without \
overcomplicating.
Here are examples of how to transform or refine prompts:
- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping \
peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.
- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing \
street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering \
glass skyscrapers.
Please generate only the enhanced description for the prompt below and avoid including any additional \
commentary or evaluations:
User Prompt: """,
}
"""Text before a prompt, by name of the encoding; the default of SANA's stock pipeline."""
FIRST_FAMILIES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "PixArtAlphaPipeline")
"""Families whose digests depend on their files and on lower case alone, so that stored prompts stay valid."""


def encoder_digest(source: str, *, negative: bool = False, loras: Sequence[Lora] = ()) -> str:
    """Return a SHA-256 of everything that encoded prompts depend on.

    It covers the files of tokenizers and text encoders, and how the family uses them: two families may have
    the same text encoder and take other states or lengths of it. `negative` marks prompts of what a picture
    shall not show, before which no instruction is put. Of `loras` those count that change a text encoder.

    Raises:
        ValueError: A file is missing or cannot be read, or a LoRA does not fit.
    """
    try:
        digest = files_digest(encoder_folder(source), _component_names(source))
    except OSError as error:
        raise ValueError(f"backbone {source!r}: {error.filename} cannot be read: {error.strerror}") from None
    if changed := [(files_digests(lora), lora.weight) for lora in loras if _changes_encoder(lora, source)]:
        digest = f"{digest} {changed}"
    way = _way(family_of(source), negative)
    return hashlib.sha256(f"{way} {digest}".encode()).hexdigest() if way else digest


def _way(family: Family, negative: bool) -> str:
    """Describe the way from prompts to conditioning, as far as it is not in the files."""
    case = "lower case" if family.lowercase else ""
    if family.pipeline in FIRST_FAMILIES:
        return case
    instruction = "" if negative else INSTRUCTIONS.get(family.encoding, "")
    return repr((family.encoding, family.tokens, case, instruction))


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


def _changes_encoder(lora: Lora, source: str) -> bool:
    """Return True if a LoRA has updates of a text encoder of `source`."""
    # Imports torch and diffusers, which sweeps without LoRAs need not wait for.
    from workloads.backbones.loras.merge import updates_of

    folder = str(encoder_folder(source))
    parts = [part for part, _ in family_of(source).text_encoders]
    return any(updates_of(source, part, weight_shapes(folder, part), [lora]) for part in parts)


def _component_names(source: str) -> list[str]:
    family = family_of(source)
    return [name for name, _ in family.text_encoders] + list(family.tokenizers)
