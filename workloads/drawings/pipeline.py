"""Saves a trained teacher of the drawn world as a stock diffusers pipeline.

    python -m workloads.drawings.pipeline {unet,transformer} --weights DIR --out FOLDER

`DiffusionPipeline.from_pretrained(FOLDER)` opens the UNet. The transformer's pipeline has no T5: it is opened
with `text_encoder_3=None, tokenizer_3=None` and called with `max_sequence_length=1`.
"""

import argparse
from pathlib import Path

from diffusers import AutoencoderKL

from workloads.drawings import networks
from workloads.drawings.training import LEARNING_RATE
from workloads.drawings.weights import load_parts, read_weights
from workloads.miniature.recipe_tools import remove_source_paths


def save_pipeline(teacher: str, weights: Path, folder: Path) -> None:
    """Read weights and autoencoder from `weights`, and write network and autoencoder in half precision.

    The text encoders stay in single precision: transformers loads weights in the precision of the file.
    """
    state, record = read_weights(teacher, weights)
    parts = networks.new_parts(teacher, record.words).eval()
    load_parts(parts, state)
    vae = AutoencoderKL.from_pretrained(weights / "vae", use_safetensors=True)
    parts["net"].half()
    networks.assemble(teacher, parts, record.words, vae.half()).save_pretrained(folder)
    remove_source_paths(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", choices=sorted(LEARNING_RATE))
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights, with vae/")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    save_pipeline(arguments.teacher, arguments.weights, arguments.out)


if __name__ == "__main__":
    main()
