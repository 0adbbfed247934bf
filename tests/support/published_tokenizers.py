"""Small tokenizers in the files of published teachers.

CLIP has a vocabulary and merges, T5 a sentencepiece model, Gemma a tokenizer.json, and Qwen a vocabulary,
merges and the template of a chat.
"""

import json
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from workloads.miniature.world import captions

START, END = "<|startoftext|>", "<|endoftext|>"
EXTRA = [f"<extra_id_{number}>" for number in range(100)]
MERGES = ["r e", "re d</w>", "c i"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
QWEN_MERGES = ["r e", "re d", "c i", "\u0120 red", "e n"]
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
CHAT = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
"""The parts of Qwen3's template that a single message of a user meets."""


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


def save_gemma(folder: Path) -> int:
    """Write a tokenizer.json of byte-pair merges of the miniature world's captions; return its tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    core = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer, core.pre_tokenizer = Replace(" ", "\u2581"), Split(" ", "merged_with_previous")
    trainer = BpeTrainer(vocab_size=400, special_tokens=[*GEMMA_SPECIAL, *bytes_], show_progress=False)
    core.train_from_iterator(captions(500, 0), trainer)
    core.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    core.save(str(folder / "tokenizer.json"))
    special = {f"{name[1:-1]}_token": name for name in GEMMA_SPECIAL[:4]}
    _write(folder / "special_tokens_map.json", {name: _added_token(text) for name, text in special.items()})
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": "left",
        "sp_model_kwargs": {},
        "tokenizer_class": "GemmaTokenizer",
        "use_default_system_prompt": False,
    }
    _write(folder / "tokenizer_config.json", {**settings, **special})
    return core.get_vocab_size()


def save_qwen(folder: Path, template_file: bool) -> int:
    """Write a tokenizer of bytes and a few merges; return its tokens.

    The template of a chat is in a file of its own, as in newer folders, or in the tokenizer's settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [*sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in QWEN_MERGES)]
    _write(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *QWEN_MERGES]) + "\n")
    numbers = {text: len(words) + number for number, text in enumerate(QWEN_SPECIAL)}
    _write(folder / "added_tokens.json", numbers)
    decoder = {
        str(number): {**_added_token(text), "normalized": False, "special": "think" not in text}
        for text, number in numbers.items()
    }
    settings: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    if template_file:
        (folder / "chat_template.jinja").write_text(CHAT)
    _write(
        folder / "tokenizer_config.json", settings if template_file else {**settings, "chat_template": CHAT}
    )
    return len(words) + len(QWEN_SPECIAL)


def _added_token(text: str) -> dict[str, Any]:
    return {"content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
