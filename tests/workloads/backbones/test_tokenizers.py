"""Tokenizers as published: the installed libraries read their files, or one line says why not."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from tests.support import published_tokenizers, teacher_layouts
from workloads.backbones.prompts.text_encoder import TextEncoder, load_tokenizer

CAPTION = "a large red circle"


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "pixart"
    teacher_layouts.FAMILIES["pixart"](folder)
    return folder


def test_spiece_model_is_read(pixart: Path) -> None:
    """sentencepiece from 0.2.3 on needs a newer protobuf than hpsv2 allows."""
    assert not (pixart / "tokenizer/tokenizer.json").exists()
    model = sentencepiece.SentencePieceProcessor(model_file=str(pixart / "tokenizer/spiece.model"))
    tokenizer = load_tokenizer(str(pixart), "tokenizer")
    assert tokenizer(CAPTION).input_ids == [*model.encode(CAPTION), tokenizer.eos_token_id]
    assert tokenizer("<extra_id_0>").input_ids[0] == model.vocab_size() + len(published_tokenizers.EXTRA) - 1
    assert TextEncoder(str(pixart)).encode([CAPTION]).embeddings.shape[1] == 120


def test_vocabulary_and_merges_are_read(tmp_path: Path) -> None:
    teacher_layouts.FAMILIES["sd15"](tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), "tokenizer")
    assert tokenizer.convert_ids_to_tokens(tokenizer("Red").input_ids[1:-1]) == ["red</w>"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", r"spiece\.model is no sentencepiece model"),
        (None, r"sentencepiece and protobuf do not fit each other"),
    ],
)
def test_unreadable_model_is_explained(
    content: bytes | None, reason: str, pixart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers tries another format then, and raises that one's error."""
    shutil.copytree(pixart, tmp_path / "teacher")
    if content is None:
        modules: dict[str, Any] = sys.modules
        monkeypatch.setitem(modules, "sentencepiece.sentencepiece_model_pb2", None)
        monkeypatch.delattr(sentencepiece, "sentencepiece_model_pb2", raising=False)
    else:
        (tmp_path / "teacher/tokenizer/spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match=rf"its tokenizer cannot be read: .*{reason}"):
        load_tokenizer(str(tmp_path / "teacher"), "tokenizer")
