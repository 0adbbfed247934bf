"""Captions of the drawn world in varied wording, and the vocabulary of them.

A caption names the subject, its category or keywords, and mostly the style: "a pizza, noto style".
"""

import random
import re
from collections.abc import Iterable

from workloads.drawings.pictures import Cell
from workloads.drawings.subjects import STYLES

STYLE_RATE = 0.88
"""Probability that a caption names the style."""
CATEGORY_ONLY_RATE = 0.06
"""Probability that a category replaces the name, so that "a fruit" is a caption too."""
CATEGORY_RATE = 0.1
"""Probability that the category follows the name."""
KEYWORDS_RATE = 0.2
"""Probability that one or two keywords follow the name."""
MOST_WORDS_OF_KEYWORD = 2
WITH_STYLE = (
    "{subject}, {style} style",
    "{subject}, {style} style",
    "{subject} in {style} style",
    "{style} style {subject}",
    "{style} emoji of {subject}",
)
WITHOUT_STYLE = ("{subject}", "an emoji of {subject}")
CATEGORIES = {
    "mammals": "animal",
    "birds": "bird",
    "marine life": "sea animal",
    "bugs": "bug",
    "amphibians": "animal",
    "reptiles": "animal",
    "fruit": "fruit",
    "vegetables": "vegetable",
    "cooked / prepared": "food",
    "asian": "food",
    "sweets & candy": "sweet",
    "drink": "drink",
    "flowers": "flower",
    "other plants": "plant",
    "weather": "weather",
    "clothing": "clothing",
    "sports": "sport",
    "ground transportation": "vehicle",
    "water transportation": "vehicle",
    "air transportation": "vehicle",
}
"""Word in captions by the subgroup in the table; a subject of another subgroup has none."""


def plain_caption(cell: Cell) -> str:
    """Return the usual caption of a cell, as sheets and judges use it."""
    return f"{_with_article(cell.name)}, {STYLES[cell.style]} style"


def random_caption(cell: Cell, rng: random.Random) -> str:
    """Return a caption of `cell`, its wording drawn from `rng`."""
    template = rng.choice(WITH_STYLE if rng.random() < STYLE_RATE else WITHOUT_STYLE)
    return template.format(subject=_subject(cell, rng), style=STYLES[cell.style])


def _subject(cell: Cell, rng: random.Random) -> str:
    category, kind = CATEGORIES.get(cell.category), rng.random()
    name = rng.choice((_with_article(cell.name), cell.name.lower()))
    if kind < CATEGORY_ONLY_RATE:
        return _with_article(category) if category else name
    if kind < CATEGORY_ONLY_RATE + CATEGORY_RATE:
        return f"{name}, {_with_article(category)}" if category else name
    words = _keywords(cell)
    if kind < CATEGORY_ONLY_RATE + CATEGORY_RATE + KEYWORDS_RATE and words:
        return ", ".join([name, *rng.sample(words, min(len(words), rng.choice((1, 2))))])
    return name


def _with_article(noun: str) -> str:
    """Return `noun` in lower case with its article, or without one if it looks like a plural."""
    noun = noun.lower()
    if noun.endswith("s") and not noun.endswith("ss"):
        return noun
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _keywords(cell: Cell) -> list[str]:
    """Return the short keywords, without signs and without what the name contains, in lower case."""
    words = [word.lower() for word in cell.keywords if len(word.split()) <= MOST_WORDS_OF_KEYWORD]
    return [
        word for word in words if word not in cell.name.lower() and re.fullmatch(r"[\w\s\u2019'-]+", word)
    ]


def vocabulary(cells: Iterable[Cell]) -> list[str]:
    """Return every token that a caption of `cells` can contain, sorted; punctuation marks are tokens."""
    texts = {"a an , ", *WITH_STYLE, *WITHOUT_STYLE, *STYLES.values(), *CATEGORIES.values()}
    for cell in cells:
        texts.update((cell.name.lower(), *_keywords(cell)))
    templates = re.compile(r"\{\w+\}")
    # The split of the tokenizer (Whitespace of the tokenizers library).
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", templates.sub("", text))})
