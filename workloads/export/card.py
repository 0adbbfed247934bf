"""The model card of an exported student: its own card, with how the export is used."""

import re
from pathlib import Path

from workloads.backbones.hub import split_source
from workloads.export.lora import Lora
from workloads.export.sampling import Sampling

CARD = "README.md"
HEAD = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
RELATION = re.compile(r"^base_model_relation:.*$", re.MULTILINE)
OWN_PLACE = "FOLDER"
"""What a student's own card calls its folder."""
LORA_USE = """
```python
from diffusers import DiffusionPipeline, {scheduler}

pipeline = DiffusionPipeline.from_pretrained({base})
pipeline.load_lora_weights("{place}", weight_name="{file}")
pipeline.scheduler = {scheduler}.from_pretrained("{place}", subfolder="scheduler")
{draw}
```
"""
FILE_USE = """
```python
from diffusers import {pipeline}

pipeline = {pipeline}.from_single_file("{place}/{file}", config="{place}")
{draw}
```
"""
DRAW = """\
prompt = "a photo of a corgi"
image = pipeline(prompt, num_inference_steps={steps}, guidance_scale={scale}).images[0]"""


def folder_card(card: str, place: str) -> str:
    """Return the card of a student that is exported as a folder.

    Args:
        card: the student's own card; may be empty.
        place: folder or hub id where the card will be.
    """
    return card.replace(OWN_PLACE, place)


def lora_card(card: str, place: str, file: str, base: str, sampling: Sampling, lora: Lora) -> str:
    """Return the card of a student that is exported as a LoRA.

    Args:
        card: the student's own card; may be empty.
        place: folder or hub id where the card will be.
        file: name of the LoRA's file.
        base: folder or hub id of the base model.
        sampling: how the student is sampled.
        lora: what is exported.
    """
    name, revision = split_source(base)
    source = f'"{name}", revision="{revision}"' if revision else f'"{name}"'
    use = LORA_USE.format(
        base=source, place=place, file=file, scheduler=sampling.scheduler, draw=_draw(sampling)
    )
    facts = f"\nA LoRA of rank {lora.rank}, {kept_note(lora)}.\n\n{sampling.advice()}.\n"
    return _with_use(RELATION.sub("base_model_relation: adapter", card), place, "As a LoRA", use + facts)


def file_card(card: str, place: str, file: str, pipeline: str, sampling: Sampling) -> str:
    """Return the card of a student of the class `pipeline` that is exported as one file; else as above."""
    use = FILE_USE.format(pipeline=pipeline, place=place, file=file, draw=_draw(sampling))
    return _with_use(card, place, "As one file", f"{use}\n{sampling.advice()}.\n")


def kept_note(lora: Lora) -> str:
    """Return how much of the student a LoRA holds, in words."""
    if lora.exact:
        return "exactly what the student trained"
    note = f"which holds {lora.kept:.2%} of the change from the base model (sum of squares)"
    others = lora.others
    return (
        note if others == 0 else f"{note}; {others:.2%} is in biases, norms and others, which no LoRA holds"
    )


def read_card(folder: Path) -> str:
    """Return the card in a student's folder; empty if it has none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _draw(sampling: Sampling) -> str:
    return DRAW.format(steps=sampling.steps, scale=sampling.guidance)


def _with_use(card: str, place: str, title: str, use: str) -> str:
    """Insert a section after the head of a card."""
    head = HEAD.match(card)
    end = head.end() if head else 0
    return f"{card[:end]}# {title}\n{use}\n{folder_card(card[end:], place)}"
