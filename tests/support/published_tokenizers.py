"""Small tokenizers in the files of published teachers: CLIP's vocabulary and merges, T5's spiece.model."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers.pre_tokenizers import ByteLevel

from workloads.miniature.world import captions

START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA = [f"<extra_id_{number}>" for number in range(100)]
MERGES = ["r e", "re d</w>", "c i"]


def save_clip(folder: Path, pad: str) -> int:
    """Write a tokenizer of bytes and three merges; return the number of its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(ByteLevel.alphabet())
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in MERGES),
    ]
    words += [START, END]
    _write(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    start, end = (_added_token(text) for text in (START, END))
    special: dict[str, Any] = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    _write(folder / "special_tokens_map.json", special)
    settings = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "name_or_path": "openai/clip-vit-large-patch14",
        "special_tokens_map_file": "./special_tokens_map.json",
        "tokenizer_class": "CLIPTokenizer",
    }
    typed = {
        name: {"__type": "AddedToken", **special[name]} for name in ("bos_token", "eos_token", "unk_token")
    }
    _write(folder / "tokenizer_config.json", {**settings, **typed, "pad_token": pad})
    return len(words)


def save_t5(folder: Path) -> int:
    """Write a sentencepiece model of the miniature world's captions; return the number of its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions(500, 0)),
        model_prefix=str(folder / "spiece"),
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model")).vocab_size()
    # As published: the last extra token is the first in the vocabulary.
    numbers = {text: pieces + len(EXTRA) - 1 - number for number, text in enumerate(EXTRA)}
    _write(folder / "added_tokens.json", numbers)
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write(folder / "special_tokens_map.json", {**special, "additional_special_tokens": EXTRA})
    settings = {
        "additional_special_tokens": EXTRA,
        "clean_up_tokenization_spaces": True,
        "extra_ids": len(EXTRA),
        "legacy": True,
        "model_max_length": 512,
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
    }
    _write(folder / "tokenizer_config.json", {**settings, **special})
    return pieces + len(EXTRA)


def _added_token(text: str) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
