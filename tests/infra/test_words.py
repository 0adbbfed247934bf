"""Every file of infra/ says what it is for, how to apply it, how to see that it works, how to remove it."""

from pathlib import Path

import pytest

from tests.infra.manifests import REPOSITORY

INFRA = REPOSITORY / "infra"
WORDS = ("# For: ", "# Apply: ", "# See: ", "# Remove: ")
WORDLESS = (".md", ".json", ".png")
FILES = sorted(path for path in INFRA.rglob("*") if path.is_file() and path.suffix not in WORDLESS)


def opening(path: Path) -> list[str]:
    """The comment that a file begins with."""
    lines = path.read_text().splitlines()
    lines = lines[1:] if lines[0].startswith("#!") else lines
    end = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:end]


def missing(path: Path) -> list[str]:
    comment = opening(path)
    return [
        word for word in WORDS if not any(line.startswith(word) and len(line) > len(word) for line in comment)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(INFRA).as_posix())
def test_opens_with_the_four_words(path: Path) -> None:
    assert missing(path) == []


def test_a_file_without_them_is_seen(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("# For: this\n# See:\nkind: X\n# Apply: too late\n")
    assert missing(tmp_path / "file.yaml") == ["# Apply: ", "# See: ", "# Remove: "]


def test_paths_in_comments_and_guide_are_there() -> None:
    for path in (*FILES, INFRA / "README.md"):
        for word in path.read_text().replace("`", " ").split():
            name = word.strip("();,.:")
            if name.startswith("infra/") and not any(mark in name for mark in ("OVERLAY", "*", "$")):
                assert (REPOSITORY / name).exists(), f"{path}: {name}"
