"""Captions of contact sheets: every script that the shipped font has, and codes for the rest."""

import matplotlib
import pytest
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageChops

from workloads.images import caption, contact_sheet, drawable, missing_characters

SCRIPTS = ["café naïve œuvre ğüş Việt", "Красный круг", "Ελληνικά", "קטן", "قطة حمراء"]
OTHERS = ["一隻紅色的貓", "一隻藍色的貓", "빨간 원", "हिन्दी", "a cat 👩‍🚀"]


def sheet(prompt: str) -> Image.Image:
    return contact_sheet([prompt], {"student": torch.zeros(1, 3, 8, 8)}, "title")


@pytest.mark.parametrize("prompt", SCRIPTS)
def test_letters_of_the_shipped_font_are_drawn(prompt: str) -> None:
    """As wide as its letters: a box for each that is missing would be another width and picture."""
    assert drawable(prompt) == prompt and caption(prompt, 1) == prompt
    boxes = sheet("".join("\U0010ffff" if letter.isalpha() else letter for letter in prompt))
    assert ImageChops.difference(sheet(prompt), boxes).getbbox()


def test_characters_are_missing_where_the_font_says_so() -> None:
    font = FT2Font(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf").get_charmap()
    letters = [chr(code) for code in range(0x21, 0x3100) if chr(code).isprintable()]
    assert set(missing_characters(letters)) == {letter for letter in letters if ord(letter) not in font}


def test_prompts_without_letters_in_the_font_look_different() -> None:
    captions = [caption(prompt, row) for row, prompt in enumerate(OTHERS)]
    assert all(text.startswith(f"{row}:") for row, text in enumerate(captions))
    assert "{7D05}" in captions[0] and "{85CD}" in captions[1]
    assert ImageChops.difference(sheet(OTHERS[0]), sheet(OTHERS[1])).getbbox()
    assert missing_characters(["貓 and 貓"]) == "貓"


@pytest.mark.parametrize(
    "prompt", ["x" * 400, "a long caption " * 40, "貓" * 60], ids=["word", "words", "codes"]
)
def test_a_caption_stays_in_its_cell_and_shows_that_it_is_cut(prompt: str) -> None:
    assert caption(prompt, 1).endswith("...") and caption(prompt, 1).count("\n") == 6
    drawn = sheet(prompt).crop((236, 44, 240, 176))  # the margin left of the picture
    assert drawn.getcolors() == [(4 * 132, (255, 255, 255))]


def test_line_breaks_and_control_characters_are_no_glyphs() -> None:
    assert drawable("a cat\non\ta mat") == "a cat on a mat"
    assert drawable("a\0b\udce9") == "a{0}b{DCE9}"
    sheet("a\0b\udce9")
