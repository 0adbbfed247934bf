"""Prompts beyond the tokens of the text encoders: the end that is not read is known for every family."""

import gzip
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.support import tiny_sdxl
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS

MARKS = ("<|startoftext|>", "<|endoftext|>")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sdxl") / "teacher"
    tiny_sdxl.save(folder)
    return str(folder)


@pytest.mark.parametrize("teacher", [*TEACHERS, "sdxl"])
def test_an_end_is_dropped_if_it_changes_nothing(teacher: str, request: pytest.FixtureRequest) -> None:
    source = request.getfixturevalue("sdxl") if teacher == "sdxl" else str(WEIGHTS / teacher)
    encoder = TextEncoder(source)
    prompts = ["a large red circle" + " green" * count for count in range(encoder.tokens)]
    embeddings = encoder.encode(prompts).embeddings
    ends = encoder.dropped(prompts)
    assert ends[0] is None and ends[-1] is not None
    for before, now, end in zip(embeddings, embeddings[1:], ends[1:], strict=False):
        assert torch.equal(before, now) == (end is not None)
    first = next(count for count, end in enumerate(ends) if end is not None)
    assert ends[first : first + 2] == ["green", "green green"]


def with_tokenizer(teacher: str, folder: Path) -> Path:
    shutil.copytree(WEIGHTS / teacher, folder)
    return folder / "tokenizer"


def test_clip_reads_75_tokens_and_two_of_its_own(tmp_path: Path) -> None:
    """The vocabulary is the published one, as the package open_clip holds it."""
    spec = find_spec("open_clip")
    assert spec and spec.submodule_search_locations
    packed = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), *MARKS]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = with_tokenizer("unet-v", tmp_path / "teacher")
    shutil.rmtree(tokenizer)
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(tokenizer)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 77}))
    encoder = TextEncoder(str(tmp_path / "teacher"))
    assert encoder.tokens == 77
    fits, long = "cat " * 75, "a large red circle, " * 60 + "on a Green background"
    short, one, many = encoder.dropped([fits, fits + "dog", long])
    assert short is None and one == "dog"
    assert many is not None and many.endswith("large red circle , on a green background")


def test_pixart_reads_119_tokens_and_one_of_its_own(tmp_path: Path) -> None:
    tokenizer = with_tokenizer("pixart", tmp_path / "teacher")
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 512}))
    encoder = TextEncoder(str(tmp_path / "teacher"))
    assert encoder.tokens == 120
    assert encoder.dropped(["red " * 119, "red " * 119 + "circle"]) == [None, "circle"]
