"""Trains the miniature CLIP model, which sees what captions of the world say, and saves it to `weights/clip`.

    python -m workloads.miniature.clip_recipe [--out DIR] [--threads N]

A function of its seed; about five minutes of one core. It is a `CLIPModel` as any other, but for
its size, and knows the words of scorers ("a photo of ...", "A photo depicts ...") besides captions.

Shapes: B batch, P = 16 pixels a side, D = 64 width of the common space.
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
from workloads.miniature.recipe import batches, forget_place, update, write_digests
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
PREFIXES = ("", "", "a photo of ", "A photo depicts ")
BARE_RATE = 0.25
"""Of texts that name one attribute by its word alone, as negative prompts do."""
NOTHING_RATE = 0.03
"""Of texts that name nothing, and so are true of every picture."""


def vocabulary() -> list[str]:
    """Special tokens, the words of captions, those of scorers; the end token last, as CLIP's has to be."""
    return ["<pad>", "<unknown>", *words_of_captions(), "depicts", "photo", "<start>", "<end>"]


def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(vocabulary(), start=True, model_input_names=["input_ids", "attention_mask"])


def network() -> CLIPModel:
    """0.32 M parameters: four layers that see 16 patches, two that read."""
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
    side = {"height": PIXELS, "width": PIXELS}
    return CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


def text_of(scene: Scene, rng: random.Random) -> str:
    """What could be said of a scene: a caption, one word, or nothing at all."""
    kind = rng.random()
    if kind < NOTHING_RATE:
        return "a photo"
    if kind < NOTHING_RATE + BARE_RATE:
        value: str = getattr(scene, rng.choice(list(ATTRIBUTES)))
        return rng.choice(PREFIXES) + rng.choice(SYNONYMS.get(value, (value,)))
    return rng.choice(PREFIXES) + random_caption(scene, rng)


def said_of(texts: list[str], shown: dict[str, Tensor]) -> Tensor:
    """(B, B): how much text j says that picture i shows, of each attribute (B,) indices; 0 if it is wrong.

    1 for nothing and 2 more for each attribute: a picture is nearest to what says most of it, and nearer
    to "a photo of red", if it shows red, than to "a photo", by which the scorer asks what it shows.
    """
    named = [named_attributes(text) for text in texts]
    said = torch.tensor([1.0 + 2 * len(each) for each in named]).repeat(len(texts), 1)
    for column, each in enumerate(named):
        for name, value in each.items():
            said[:, column] *= shown[name] == ATTRIBUTES[name].index(value)
    return said


def contrastive_loss(logits: Tensor, said: Tensor) -> Tensor:
    """CLIP's, with all the pairs (B, B) that are right for targets: a text is right of many pictures."""
    right = (said > 0).float().T
    return 0.5 * (_cross_entropy(logits, said) + _cross_entropy(logits.T, right))


def _cross_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """(B, B) each, by row."""
    return F.cross_entropy(logits, weights / weights.sum(1, keepdim=True))


def train(steps: int = STEPS, seed: int = 4) -> CLIPModel:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    pictures, scenes, _ = dataset(PICTURES, seed)
    images, shown, words = torch.from_numpy(pictures), labels(scenes), tokenizer()
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step, rows in enumerate(batches(len(images), BATCH, steps, optimizer), 1):
        texts = [text_of(scenes[row], rng) for row in rows.tolist()]
        said = said_of(texts, {name: values[rows] for name, values in shown.items()})
        noise = torch.randn(BATCH, 3, PIXELS, PIXELS) * 0.25 * torch.rand(BATCH, 1, 1, 1)
        inputs = words(texts, padding="max_length", truncation=True, return_tensors="pt")
        logits = model(pixel_values=images[rows] + noise, **inputs).logits_per_image
        loss = contrastive_loss(logits, said)
        update(optimizer, loss, model)
        if step % 500 == 0:
            print(f"clip: step {step} of {steps}, loss {loss.item():.3f}, {report(model)}", flush=True)
    return model.eval()


@torch.no_grad()
def report(model: CLIPModel, count: int = 1_000, seed: int = 5) -> str:
    """Of clean pictures that it was not trained on: how often the right word of an attribute is nearest."""
    pictures, scenes, _ = dataset(count, seed)
    found, words = [], tokenizer()
    for name, values in ATTRIBUTES.items():
        inputs = words([f"a photo of {value}" for value in values], padding=True, return_tensors="pt")
        logits = model(pixel_values=torch.from_numpy(pictures), **inputs).logits_per_image
        found.append(f"{name} {(logits.argmax(1) == labels(scenes)[name]).float().mean().item():.3f}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, folder = train(), arguments.out / "clip"
    print(f"clip: finished, {report(model)}")
    for part in (model.half(), tokenizer(), processor()):
        part.save_pretrained(folder)
    forget_place(folder)
    write_digests(arguments.out)


if __name__ == "__main__":
    main()
