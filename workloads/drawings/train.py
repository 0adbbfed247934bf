"""Trains a teacher of the drawn world; a later call with the same --out goes on where the last one ended.

    python -m workloads.drawings.train {unet,transformer} --pictures FILE --out DIR [--minutes N]
        [--decay-steps N] [--start-from DIR] [--seed N] [--threads N]

Training has a constant rate and no end of its own: --minutes ends it, or the last step of --decay-steps.
Every 100 steps it writes a checkpoint and the weights as they are shipped, every 500 a sheet of drawings.
"""

import argparse
import time
from pathlib import Path

import torch

from workloads.drawings.latent_space import (
    LatentSpace,
    fit_latent_space,
    load_latent_space,
    save_latent_space,
)
from workloads.drawings.pictures import Drawings, read_drawings
from workloads.drawings.sheet import write_sheet
from workloads.drawings.training import LEARNING_RATE, Training
from workloads.drawings.weights import go_on_from, write_weights

REPORT_EVERY, CHECKPOINT_EVERY, SHEET_EVERY = 50, 100, 500


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    drawings = read_drawings(arguments.pictures)
    space = latent_space(arguments.out, arguments.start_from, drawings)
    training = Training(arguments.teacher, drawings, space, arguments.seed)
    checkpoint = arguments.out / f"{arguments.teacher}.checkpoint"
    if checkpoint.exists():
        training.load(checkpoint)
    elif arguments.start_from is not None:
        go_on_from(training, arguments.start_from)
    if arguments.decay_steps and training.decay is None:
        training.decay = (training.step, arguments.decay_steps)
    print(f"{training.teacher}: {len(drawings.training_rows)} pictures, split {drawings.digest[:12]}, "
          f"{len(training.words)} words, at step {training.step}", flush=True)  # fmt: skip
    run(training, space, arguments.out, 60 * arguments.minutes)
    training.save(checkpoint)
    write_weights(training, arguments.out)
    print(f"{training.teacher}: step {training.step}, {training.core_seconds:.0f} core-seconds, "
          f"{write_sheet(training, space, arguments.out / f'{training.teacher}-last.png')}")  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", choices=sorted(LEARNING_RATE))
    parser.add_argument("--pictures", type=Path, required=True, help="parquet table of captioned pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, weights and sheets")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="wall time to train (no end)")
    parser.add_argument("--decay-steps", type=int, help="end with this many steps of falling rate")
    parser.add_argument("--start-from", type=Path, help="folder of shipped weights to begin with")
    parser.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    return parser.parse_args()


def latent_space(out: Path, start_from: Path | None, drawings: Drawings) -> LatentSpace:
    """Return the latent space of an earlier run, or fit one to the training pictures; keep it in `out`."""
    for folder in (out, start_from):
        if folder is not None and (folder / "latents.safetensors").exists():
            space = load_latent_space(folder)
            break
    else:
        space = fit_latent_space(drawings.images[drawings.training_rows])
    save_latent_space(space, out)
    return space


def run(training: Training, space: LatentSpace, out: Path, seconds: float) -> None:
    """Train until `seconds` have passed or the last phase is over."""
    started, losses = time.monotonic(), []
    first = training.step
    while time.monotonic() - started < seconds and not training.decayed:
        losses.append(training.train_step())
        if training.step % REPORT_EVERY == 0:
            wall = time.monotonic() - started
            print(f"{training.teacher}: step {training.step}, loss {sum(losses) / len(losses):.4f}, "
                  f"rate {training.learning_rate():.1e}, {training.core_seconds:.0f} core-seconds, "
                  f"{wall / (training.step - first):.2f} s a step, "
                  f"{remaining(training, wall, first, seconds)}",
                  flush=True)  # fmt: skip
            losses.clear()
        if training.step % CHECKPOINT_EVERY == 0:
            write_weights(training, out)
            training.save(out / f"{training.teacher}.checkpoint")
        if training.step % SHEET_EVERY == 0:
            path = out / f"{training.teacher}-{training.step:06d}.png"
            print(
                f"{training.teacher}: step {training.step}, {write_sheet(training, space, path)}", flush=True
            )


def remaining(training: Training, wall: float, first: int, seconds: float) -> str:
    """Return an estimate of the time to the end of this run, as text."""
    left = seconds - wall
    if training.decay is not None:
        left = min(left, (sum(training.decay) - training.step) * wall / (training.step - first))
    return "no end set" if left == float("inf") else f"{left / 60:.0f} min left"


if __name__ == "__main__":
    main()
