"""Arithmetic of the CLIP scores, checked with a tiny random model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from workloads.scorers.clip import ClipAgreement
from workloads.scorers.scorer import Request

WORDS = ["a", "photo", "of", "depicts", "red", "blue", "green", "shape", "big"]
SIDE, LIMIT = 32, 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random CLIP model, whose tokens are the words of `WORDS`."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    vocabulary = {letter: index for index, letter in enumerate(sorted(set("".join(WORDS))))}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = word[0] if len(word) > 1 else ""
        pieces = [*word[:-1], word[-1] + "</w>"]
        vocabulary.setdefault(pieces[-1], len(vocabulary))
        for piece in pieces[1:] if left else []:
            if (left, piece) not in merges:
                merges.append((left, piece))
            left += piece
            vocabulary.setdefault(left, len(vocabulary))
    ends = {name: len(vocabulary) + i for i, name in enumerate(["<|startoftext|>", "<|endoftext|>"])}
    CLIPTokenizer(vocab=vocabulary | ends, merges=merges).save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **shape,
        vocab_size=len(vocabulary) + 2,
        max_position_embeddings=LIMIT,
        eos_token_id=ends["<|endoftext|>"],
        bos_token_id=ends["<|startoftext|>"],
    )
    vision = CLIPVisionConfig(**shape, image_size=SIDE, patch_size=8)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": SIDE}
    CLIPImageProcessorPil(size=size, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def loaded(model: Path, threshold: float = 0.5, prefix: str = "A photo depicts ") -> ClipAgreement:
    scorer = ClipAgreement(str(model), threshold, prefix)
    scorer.load()
    return scorer


def images(count: int) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_cosines_match_the_model(model: Path) -> None:
    requests = [Request("a red shape", "blue"), Request("green"), Request("big shape", "a red shape")]
    sampled = images(3)
    measured = loaded(model, prefix="a ").measure(sampled, requests)
    network, tokenizer = CLIPModel.from_pretrained(model).eval(), CLIPTokenizer.from_pretrained(model)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    pixels = (((sampled + 1) / 2 * 255).round() / 255 - mean) / deviation
    texts = ["a a red shape", "a green", "a big shape", "a blue", "a photo of a red shape", "a photo"]
    with torch.no_grad():
        out = network(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=pixels)
    cosine = (out.image_embeds @ out.text_embeds.T).numpy()
    np.testing.assert_allclose(measured["clip_plus"], np.diag(cosine[:, :3]), atol=1e-5)
    np.testing.assert_allclose(measured["clip_minus"], [cosine[0, 3], np.nan, cosine[2, 0]], atol=1e-5)
    shown = out.logits_per_image[2, 4:].softmax(-1)[0] > 0.5
    assert np.isnan(measured["negative_shown"][1]) and measured["negative_shown"][2] == float(shown)


def test_threshold_of_the_negative_rate(model: Path) -> None:
    sampled, requests = images(6), [Request("red", "blue")] * 6
    rates = {}
    for threshold in (0.0, 0.5, 1.0):
        scorer = loaded(model, threshold=threshold)
        scores = {s.metric: s for s in scorer.summarise(scorer.measure(sampled, requests), requests)}
        rates[threshold] = scores["negative_rate"].value
        assert f"p > {threshold:g}" in scores["negative_rate"].protocol
    assert rates[0.0] == 1.0 and rates[1.0] == 0.0


def test_summary_ignores_nan(model: Path) -> None:
    requests = [Request("red"), Request("blue", "green")]
    scorer = ClipAgreement(str(model))
    nan = float("nan")
    measured = {
        "clip_plus": np.array([0.2, 0.4], np.float32),
        "clip_minus": np.array([nan, 0.1], np.float32),
        "negative_shown": np.array([nan, 1], np.float32),
    }
    plus, minus, rate = scorer.summarise(measured, requests)
    assert [s.metric for s in (plus, minus, rate)] == ["clip_plus", "clip_minus", "negative_rate"]
    assert [s.value for s in (plus, minus, rate)] == pytest.approx([0.3, 0.1, 1.0])
    assert [s.samples for s in (plus, minus, rate)] == [2, 1, 1]
    assert plus.low < 0.3 < plus.high
    assert "CLIP tiny-clip" in plus.protocol and str(model.parent) not in plus.protocol
    first = {name: column[:1] for name, column in measured.items()}
    assert [score.metric for score in scorer.summarise(first, requests[:1])] == ["clip_plus"]


def test_long_prompts_are_truncated(model: Path) -> None:
    scorer = loaded(model, prefix="")
    # The limit of 12 tokens includes start and end, so ten words fit.
    requests = [Request("red " * 10), Request("red " * 10 + "blue " * 30), Request("red " * 9 + "blue")]
    plus = scorer.measure(images(1).expand(3, -1, -1, -1), requests)["clip_plus"]
    assert plus[0] == pytest.approx(plus[1], abs=1e-6)
    assert abs(plus[0] - plus[2]) > 1e-5


def test_order_and_batches_change_nothing(model: Path) -> None:
    scorer, sampled = loaded(model), images(6)
    requests = [Request("a shape " * i + "red", "big " * (i % 3)) for i in range(6)]
    whole = scorer.measure(sampled, requests)
    ones = [scorer.measure(sampled[i : i + 1], requests[i : i + 1]) for i in reversed(range(6))]
    for name, column in whole.items():
        np.testing.assert_allclose(np.concatenate([one[name] for one in ones])[::-1], column, atol=1e-5)


def test_missing_model_error_names_the_command(tmp_path: Path, model: Path) -> None:
    for source in (str(tmp_path), "nobody/no-such-clip"):
        with pytest.raises(ValueError, match="fetch one with `hf download") as caught:
            ClipAgreement(source).load()
        assert source in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(RuntimeError, match="call load before measure"):
        ClipAgreement(str(model)).measure(images(1), [Request("red")])
