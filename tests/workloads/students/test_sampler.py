"""Drawing with a saved student, as the registered model does."""

import pytest

from workloads.miniature import WEIGHTS
from workloads.students.sampler import NOTE_CHARACTERS, Generator


def test_a_prompt_beyond_the_tokens_is_drawn_with_a_warning() -> None:
    generator = Generator(WEIGHTS / "pixart")
    begin = "a large red circle on a white background at the top and a small green cross"
    with pytest.warns(UserWarning, match=r"longer than 16 tokens; .* end: 'cross'"):
        cut = generator.png(begin, 0)
    with pytest.warns(UserWarning, match="end: 'cross at the bottom'"):
        assert generator.png(f"{begin} at the bottom", 0) == cut
    assert generator.cut_note("a large red circle") is None
    note = generator.cut_note("red " * 500)
    assert note is not None and len(note) < 3 * NOTE_CHARACTERS
