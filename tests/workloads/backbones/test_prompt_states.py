"""Prompts become what the stock pipeline of each family makes of them by default."""

import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, SanaPipeline
from torch import Tensor

from tests.support.flow_layouts import FLOW_FAMILIES
from tests.support.teacher_layouts import edited, in_float16, saved_again
from workloads.backbones.families import family_of
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import INSTRUCTIONS, encoder_digest
from workloads.miniature.networks import SPECIAL, TOKENS, word_tokenizer
from workloads.miniature.world import vocabulary

PROMPTS = ["  A large RED circle, café ", "a tiny blue square on a white background", "circle"]
NEGATIVES = ["Green, blurry", "", "red"]
SANA_DEFAULT = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the toy of a family, once."""
    made: dict[str, Path] = {}

    def write(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "teacher"
            FLOW_FAMILIES[family](made[family])
        return made[family]

    return write


def stock(folder: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline).__name__ == family_of(str(folder)).pipeline
    return pipeline


def unpadded(encoded: Conditioning) -> list[Tensor]:
    assert encoded.mask is not None
    rows = zip(encoded.embeddings, encoded.mask, strict=True)
    return [row[kept.bool()] for row, kept in rows]


Pair = tuple[Sequence[Tensor | None], Sequence[Tensor | None]]


def sana(pipeline: Any, ours: Conditioning, negative: Conditioning) -> Pair:
    theirs = pipeline.encode_prompt(
        PROMPTS, True, negative_prompt=NEGATIVES, complex_human_instruction=SANA_DEFAULT
    )
    return (ours.embeddings, ours.mask, negative.embeddings, negative.mask), theirs


def sd3(pipeline: Any, ours: Conditioning, negative: Conditioning) -> Pair:
    theirs = pipeline.encode_prompt(PROMPTS, PROMPTS, PROMPTS, negative_prompt=NEGATIVES)
    return (ours.embeddings, negative.embeddings, ours.pooled, negative.pooled), theirs


def klein(pipeline: Any, ours: Conditioning, negative: Conditioning) -> Pair:
    theirs = [pipeline.encode_prompt(texts)[0] for texts in (PROMPTS, NEGATIVES)]
    return (ours.embeddings, negative.embeddings), theirs


def z_image(pipeline: Any, ours: Conditioning, negative: Conditioning) -> Pair:
    theirs, others = pipeline.encode_prompt(list(PROMPTS), negative_prompt=list(NEGATIVES))
    return [*unpadded(ours), *unpadded(negative)], [*theirs, *others]


def pixart_sigma(pipeline: Any, ours: Conditioning, negative: Conditioning) -> Pair:
    theirs = pipeline.encode_prompt(PROMPTS, negative_prompt=NEGATIVES)
    return (ours.embeddings, ours.mask, negative.embeddings, negative.mask), theirs


COMPARED: dict[str, Callable[[Any, Conditioning, Conditioning], Pair]] = {
    "sana": sana, "sd3": sd3, "klein": klein, "z-image": z_image, "pixart-sigma": pixart_sigma,
}  # fmt: skip
SHAPES = {
    "sana": (300, 32), "sd3": (77 + 256, 64), "klein": (512, 96), "z-image": (512, 32),
    "pixart-sigma": (300, 64),
}  # fmt: skip
every = pytest.mark.parametrize("family", COMPARED)


@every
@torch.no_grad()
def test_prompts_match_stock_pipeline(family: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(family)
    encoder = TextEncoder(str(folder))
    ours, negative = encoder.encode(PROMPTS), encoder.encode(NEGATIVES, negative=True)
    assert ours.embeddings.shape == (3, *SHAPES[family])
    assert (ours.mask is not None, ours.pooled is not None) == (encoder.family.masked, encoder.family.pooled)
    mine, theirs = COMPARED[family](stock(folder), ours, negative)
    for found, wanted in zip(mine, theirs, strict=True):
        assert found is not None
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0, check_dtype=found.is_floating_point())


@every
@torch.no_grad()
def test_rows_do_not_affect_each_other(family: str, folder_of: Callable[[str], Path]) -> None:
    encoder = TextEncoder(str(folder_of(family)))
    together, alone = encoder.encode(PROMPTS), encoder.encode(PROMPTS[2:])
    for name, part in alone.parts.items():
        torch.testing.assert_close(together.parts[name][2:], part, atol=1e-6, rtol=0)


@every
def test_an_end_is_dropped_if_it_changes_nothing(family: str, folder_of: Callable[[str], Path]) -> None:
    encoder = TextEncoder(str(folder_of(family)))
    # Gemma's tokens of words depend on whether a space follows.
    word = "q" if family == "sana" else " red"
    prompts = [word.strip() + word * count for count in range(encoder.tokens - 24, encoder.tokens + 1)]
    for negative in (False, True):
        encoded = encoder.encode(prompts, negative=negative).embeddings
        ends = encoder.dropped(prompts, negative=negative)
        assert ends[0] is None and ends[-1] is not None
        for before, now, end in zip(encoded, encoded[1:], ends[1:], strict=False):
            assert torch.allclose(before, now, atol=1e-6) == (end is not None)
        first = next(row for row, end in enumerate(ends) if end is not None)
        dropped = [str(end).strip() for end in ends[first : first + 2]]
        assert dropped == [word.strip(), word.strip() + word]


def test_instruction_is_that_of_the_stock_pipeline() -> None:
    assert INSTRUCTIONS["gemma"] == "\n".join(SANA_DEFAULT)


def test_negative_prompts_of_sana_have_no_instruction(folder_of: Callable[[str], Path]) -> None:
    encoder = TextEncoder(str(folder_of("sana")))
    plain, negative = encoder.encode(PROMPTS), encoder.encode(PROMPTS, negative=True)
    assert plain.mask is not None and negative.mask is not None
    # With the instruction the begin token is kept, and the last of the instruction and the prompt.
    assert (plain.mask.sum(1) <= negative.mask.sum(1) + 1).all()
    assert not torch.allclose(plain.embeddings[:, 1:9], negative.embeddings[:, 1:9], atol=1e-3)


def test_short_tokenizers_of_sana_have_no_instruction(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Such as that of a miniature, which reads 16 tokens."""
    folder = tmp_path / "teacher"
    shutil.copytree(folder_of("sana"), folder)
    shutil.rmtree(folder / "tokenizer")
    word_tokenizer([*SPECIAL, *vocabulary()], start=False).save_pretrained(folder / "tokenizer")
    edited("model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])(folder)
    encoder = TextEncoder(str(folder))
    ours, negative = encoder.encode(PROMPTS), encoder.encode(PROMPTS, negative=True)
    assert torch.equal(ours.embeddings, negative.embeddings)
    arguments = {"max_sequence_length": TOKENS, "complex_human_instruction": None}
    with torch.no_grad():
        theirs, mask, *_ = stock(folder).encode_prompt(PROMPTS, False, **arguments)
    torch.testing.assert_close(ours.embeddings, theirs, atol=1e-6, rtol=0)
    assert ours.mask is not None and torch.equal(ours.mask, mask)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "text_encoder_3"])
def test_digest_depends_on_every_encoder(part: str, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("sd3"), tmp_path / "teacher")
    before = encoder_digest(str(tmp_path / "teacher"))
    edited(f"{part}/config.json", hidden_act="relu")(tmp_path / "teacher")
    assert encoder_digest(str(tmp_path / "teacher")) != before


def test_digest_depends_on_the_way_from_prompts(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families of the same text encoder take other states of it, and lengths; SANA's has an instruction."""
    source = folder_of("pixart-sigma")
    digests = {encoder_digest(str(source))}
    for pipeline in ("PixArtAlphaPipeline", "SanaPipeline", "Flux2KleinPipeline", "ZImagePipeline"):
        folder = tmp_path / pipeline
        shutil.copytree(source, folder)
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
        digests.add(encoder_digest(str(folder)))
    assert len(digests) == 5
    monkeypatch.setitem(INSTRUCTIONS, "gemma", "Draw: ")
    assert encoder_digest(str(tmp_path / "SanaPipeline")) not in digests


@pytest.mark.parametrize("family", ["klein", "z-image"])
def test_digest_depends_on_the_template(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(folder_of(family), folder)
    before = encoder_digest(str(folder))
    file = next(
        file for file in (folder / "tokenizer").iterdir() if "im_start|>assistant" in file.read_text()
    )
    file.write_text(file.read_text().replace("im_start|>assistant", "im_start|>helper"))
    assert encoder_digest(str(folder)) != before


@every
@pytest.mark.parametrize("half", [False, True], ids=["shards", "fp16"])
def test_shards_and_variants_are_read(
    half: bool, family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(folder_of(family), folder)
    change = in_float16 if half else lambda part: saved_again(part, max_shard_size="60KB")
    for part, _ in family_of(str(folder)).text_encoders:
        change(part)(folder)
    ours, theirs = (TextEncoder(str(source)).encode(PROMPTS) for source in (folder, folder_of(family)))
    assert len(list(folder.rglob("*.safetensors"))) > 3 or half
    torch.testing.assert_close(ours.embeddings, theirs.embeddings, atol=0.02, rtol=0)
