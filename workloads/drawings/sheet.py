"""Sheets of what a teacher draws for fixed captions, and how near each drawing is to the real picture.

Shapes: N drawings, M real pictures, P = 32 pixels, K = 16 channels, H = 8 latent size.
"""

import copy
import random
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from workloads.drawings import networks
from workloads.drawings.captions import plain_caption
from workloads.drawings.latent_space import LatentSpace
from workloads.drawings.losses import EMPTY_T5_TOKENS
from workloads.drawings.pictures import PIXELS, Drawings
from workloads.drawings.training import Training

TRAINED, HELD_OUT = 24, 12
"""Captions of a sheet of each kind."""
COLUMNS = 9
ENLARGEMENT = 3
GUIDANCE_SCALE = 4.0
STEPS = 20


def sheet_rows(drawings: Drawings, seed: int = 0) -> list[int]:
    """Return the indices of 24 trained cells and 12 held-out ones, the same in every sheet."""
    rng = random.Random(seed)
    trained, held_out = drawings.training_rows.tolist(), drawings.held_out_rows.tolist()
    chosen = rng.sample(trained, min(TRAINED, len(trained)))
    return [*chosen, *rng.sample(held_out, min(HELD_OUT, len(held_out)))]


@torch.no_grad()
def draw(training: Training, space: LatentSpace, captions: list[str], seed: int = 0) -> Tensor:
    """Return drawings (N, 3, P, P) in [-1, 1] of the averaged weights, by the stock pipeline."""
    parts = copy.deepcopy(training.average)
    pipeline = networks.assemble(training.teacher, parts, training.words, networks.autoencoder())
    pipeline.set_progress_bar_config(disable=True)
    extra = {} if training.teacher == "unet" else {"max_sequence_length": EMPTY_T5_TOKENS}
    # The decoder that is fitted later is not needed: the latent space has its own inverse.
    latents = pipeline(
        captions,
        negative_prompt=[""] * len(captions),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE_SCALE,
        height=PIXELS,
        width=PIXELS,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **extra,
    ).images
    return space.decode(latents)


def nearest_subjects(drawn: Tensor, rows: list[int], drawings: Drawings) -> tuple[float, float]:
    """Return the shares of drawings whose subject has the nearest picture, and one of the five nearest.

    A subject is as near as the nearest of its pictures of any style, in mean squared error of pixels. This
    needs no judge, and counts a drawing as right only if it resembles the picture that its caption names.
    """
    names = list(dict.fromkeys(cell.name for cell in drawings.cells))
    distance = torch.cdist(drawn.flatten(1), drawings.images.flatten(1))
    by_subject = torch.stack(
        [distance[:, [i for i, c in enumerate(drawings.cells) if c.name == n]].amin(1) for n in names], 1
    )
    order = by_subject.argsort(1).tolist()
    wanted = [names.index(drawings.cells[row].name) for row in rows]
    places = [row.index(target) for row, target in zip(order, wanted, strict=True)]
    return sum(p < 1 for p in places) / len(places), sum(p < 5 for p in places) / len(places)


def write_sheet(training: Training, space: LatentSpace, path: Path) -> str:
    """Write a sheet with captions, and return the shares of `nearest_subjects` as text."""
    rows = sheet_rows(training.drawings)
    captions = [plain_caption(training.drawings.cells[row]) for row in rows]
    drawn = draw(training, space, captions)
    _grid(drawn, captions).save(path)
    trained = min(TRAINED, len(training.drawings.training_rows))
    found = []
    for name, part in (("trained", slice(0, trained)), ("held out", slice(trained, None))):
        first, five = nearest_subjects(drawn[part], rows[part], training.drawings)
        found.append(f"{name} {first:.2f}/{five:.2f}")
    return f"nearest picture top-1/top-5: {', '.join(found)}"


def _grid(drawn: Tensor, captions: list[str]) -> Image.Image:
    """Return drawings (N, 3, P, P) enlarged, each above its caption."""
    side, gap, text = PIXELS * ENLARGEMENT, 24, 26
    lines = -(-len(captions) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (side + gap), lines * (side + text)), "white")
    pen = ImageDraw.Draw(sheet)
    pixels = ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for place, (picture, caption) in enumerate(zip(pixels, captions, strict=True)):
        x, y = place % COLUMNS * (side + gap), place // COLUMNS * (side + text)
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (x, y))
        subject, _, style = caption.partition(", ")
        pen.text((x, y + side), f"{subject}\n{style}", fill="black", font_size=9)
    return sheet
