"""The table, its split and digest, the captions and the latent space."""

import io
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.workloads.drawings.conftest import SUBJECTS, png, rows, write_table
from workloads.drawings.captions import plain_caption, random_caption, vocabulary
from workloads.drawings.latent_space import fit_latent_space, load_latent_space, save_latent_space
from workloads.drawings.networks import tokenizer
from workloads.drawings.pictures import Cell, Drawings, held_out_cells, read_drawings
from workloads.drawings.subjects import STYLES
from workloads.drawings.subjects import SUBJECTS as ALL_SUBJECTS


def test_pictures_are_read_in_the_order_of_the_subjects(drawings: Drawings) -> None:
    assert [cell.name for cell in drawings.cells[:: len(STYLES)]] == list(SUBJECTS)
    assert drawings.images.shape == (20, 3, 32, 32)
    first = torch.frombuffer(bytearray(Image.open(io.BytesIO(png(0))).tobytes()), dtype=torch.uint8)
    wanted = first.view(64, 64, 3)[::2, ::2].permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(drawings.images[0], wanted, atol=1e-6)


def test_the_split_is_fixed_and_its_digest_names_it(table: Path, drawings: Drawings, tmp_path: Path) -> None:
    assert drawings.held_out.sum() == 2
    assert set(drawings.training_rows.tolist()).isdisjoint(drawings.held_out_rows.tolist())
    shuffled = write_table(tmp_path / "shuffled.parquet", rows()[::-1])
    assert read_drawings(shuffled, SUBJECTS).digest == drawings.digest
    other = rows()
    other[0]["png"] = png(99)
    changed = write_table(tmp_path / "changed.parquet", other)
    assert read_drawings(changed, SUBJECTS).digest != drawings.digest


def test_every_style_and_no_subject_twice_is_held_out_of_the_real_subjects() -> None:
    cells = [Cell(name, style, (), "") for name in ALL_SUBJECTS for style in STYLES]
    chosen = held_out_cells(cells)
    assert len(set(ALL_SUBJECTS)) == len(ALL_SUBJECTS) == 174
    assert len(chosen) == len({cell.name for cell in chosen}) == 70
    assert {sum(cell.style == style for cell in chosen) for style in STYLES} == {17, 18}


def test_a_missing_picture_is_named(table: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks 4 pictures, first rocket \(noto\)"):
        read_drawings(table, [*SUBJECTS, "rocket"])


def test_captions_have_known_words_and_fit(drawings: Drawings) -> None:
    rng, words = random.Random(0), tokenizer(vocabulary(drawings.cells))
    captions = {random_caption(cell, rng) for cell in drawings.cells for _ in range(100)}
    ids = [words(caption).input_ids for caption in captions]
    assert not any(words.unk_token_id in each for each in ids)
    assert max(map(len, ids)) <= words.model_max_length
    assert any(caption == "a fruit, blob style" for caption in captions)
    assert any("style" not in caption for caption in captions)
    assert any(", two words" in caption for caption in captions)
    assert not any("three" in caption or "✓" in caption for caption in captions)
    assert plain_caption(drawings.cells[3]) == "a red apple, glossy style"


def test_the_latent_space_has_unit_variance_and_an_inverse(drawings: Drawings, tmp_path: Path) -> None:
    space = fit_latent_space(drawings.images)
    latents = space.encode(drawings.images)
    assert latents.shape == (20, 16, 8, 8)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(16), atol=1e-4)
    assert torch.allclose(space.decode(latents), drawings.images, atol=1e-3)
    save_latent_space(space, tmp_path)
    assert torch.equal(load_latent_space(tmp_path).encode(drawings.images), latents)
