"""Trains the miniature CLIP model on pictures and captions of the world, and saves it to `weights/clip`.

    python -m workloads.miniature.clip_recipe [--out DIR] [--threads N]

Deterministic in its seed; takes about five minutes on one core. The result is an ordinary, small `CLIPModel`.
Besides captions it knows the words of scorers ("a photo of ...", "A photo depicts ...").

Shapes: B batch, P = 16 pixels a side.
"""

import argparse
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from workloads.miniature import WEIGHTS
from workloads.miniature.judge import labels
from workloads.miniature.networks import TOKENS, word_tokenizer
from workloads.miniature.recipe_tools import batches, remove_source_paths, update, write_digests
from workloads.miniature.world import (
    ATTRIBUTES,
    PIXELS,
    SYNONYMS,
    Scene,
    dataset,
    named_attributes,
    random_caption,
)
from workloads.miniature.world import vocabulary as words_of_captions

PICTURES, BATCH, STEPS = 12_000, 128, 4_000
WIDTH = 64
"""Width of the hidden layers and of the common space."""
PREFIXES = ("", "", "a photo of ", "A photo depicts ")
"""Beginnings of a text, drawn uniformly."""
BARE_RATE = 0.25
"""Share of texts that name one attribute by its word alone, as negative prompts do."""
NOTHING_RATE = 0.03
"""Share of texts that name no attribute, and so match every picture."""


def vocabulary() -> list[str]:
    """Return the tokens in order: special, captions', scorers', and last the end token, as CLIP requires."""
    return ["<pad>", "<unknown>", *words_of_captions(), "depicts", "photo", "<start>", "<end>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of `vocabulary`."""
    return word_tokenizer(vocabulary(), start=True, model_input_names=["input_ids", "attention_mask"])


def network() -> CLIPModel:
    """Return an untrained model of 0.32 M parameters: four layers on 16 patches, two on text."""
    words = vocabulary()
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = {
        **shape,
        "num_hidden_layers": 2,
        "vocab_size": len(words),
        "max_position_embeddings": TOKENS,
        "pad_token_id": words.index("<pad>"),
        "bos_token_id": words.index("<start>"),
        "eos_token_id": words.index("<end>"),
    }
    vision = {**shape, "num_hidden_layers": 4, "image_size": PIXELS, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH))


def processor() -> CLIPImageProcessorPil:
    """Return the image processor, which maps pixels to [-1, 1] at the world's size."""
    side = {"height": PIXELS, "width": PIXELS}
    return CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def random_text(scene: Scene, rng: random.Random) -> str:
    """Return a text that matches `scene`: a caption, one word, or a text without attributes."""
    kind = rng.random()
    if kind < NOTHING_RATE:
        return "a photo"
    if kind < NOTHING_RATE + BARE_RATE:
        value: str = getattr(scene, rng.choice(list(ATTRIBUTES)))
        return rng.choice(PREFIXES) + rng.choice(SYNONYMS.get(value, (value,)))
    return rng.choice(PREFIXES) + random_caption(scene, rng)


def match_scores(texts: list[str], shown: dict[str, Tensor]) -> Tensor:
    """Return scores (B, B) of picture i and text j: 0 if the text is wrong, else 1 + 2 per named attribute.

    `shown` has by attribute the indices (B,) of the values that the pictures show. The scores make a picture
    most similar to the text that names most of it. If it shows red, it is more similar to "a photo of red"
    than to "a photo", a comparison by which the scorer detects attributes.
    """
    named = [named_attributes(text) for text in texts]
    scores = torch.tensor([1.0 + 2 * len(each) for each in named]).repeat(len(texts), 1)
    for column, each in enumerate(named):
        for name, value in each.items():
            scores[:, column] *= shown[name] == ATTRIBUTES[name].index(value)
    return scores


def contrastive_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return CLIP's loss (scalar) of `logits` (B, B), with soft targets from `match_scores` (B, B).

    CLIP (Radford et al. 2021, figure 3) has one match per row; here one text can match many pictures.
    """
    right = (scores > 0).float().T
    return 0.5 * (_cross_entropy(logits, scores) + _cross_entropy(logits.T, right))


def _cross_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows (scalar) for `logits` (B, B) and unnormalised targets `weights` (B, B)."""
    return F.cross_entropy(logits, weights / weights.sum(1, keepdim=True))


def train(steps: int = STEPS, seed: int = 4) -> CLIPModel:
    """Train on noisy pictures with random texts, and print a report every 500 steps."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pictures, scenes, _ = dataset(PICTURES, seed)
    images, shown, words = torch.from_numpy(pictures), labels(scenes), tokenizer()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step, rows in enumerate(batches(len(images), BATCH, steps, optimizer), 1):
        texts = [random_text(scenes[row], rng) for row in rows.tolist()]
        scores = match_scores(texts, {name: values[rows] for name, values in shown.items()})
        noise = torch.randn(BATCH, 3, PIXELS, PIXELS) * 0.25 * torch.rand(BATCH, 1, 1, 1)
        inputs = words(texts, padding="max_length", truncation=True, return_tensors="pt")
        logits = model(pixel_values=images[rows] + noise, **inputs).logits_per_image
        loss = contrastive_loss(logits, scores)
        update(optimizer, loss, model)
        if step % 500 == 0:
            print(f"clip: step {step} of {steps}, loss {loss.item():.3f}, {report(model)}", flush=True)
    return model.eval()


@torch.no_grad()
def report(model: CLIPModel, count: int = 1_000, seed: int = 5) -> str:
    """Return the accuracy of each attribute, as text: how often its right word is the most similar one.

    The pictures are clean and not from the training set.
    """
    pictures, scenes, _ = dataset(count, seed)
    found, words = [], tokenizer()
    for name, values in ATTRIBUTES.items():
        inputs = words([f"a photo of {value}" for value in values], padding=True, return_tensors="pt")
        logits = model(pixel_values=torch.from_numpy(pictures), **inputs).logits_per_image
        found.append(f"{name} {(logits.argmax(1) == labels(scenes)[name]).float().mean().item():.3f}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="parent of the folder clip (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, folder = train(), arguments.out / "clip"
    print(f"clip: finished, {report(model)}")
    for part in (model.half(), tokenizer(), processor()):
        part.save_pretrained(folder)
    remove_source_paths(folder)
    write_digests(arguments.out)


if __name__ == "__main__":
    main()
