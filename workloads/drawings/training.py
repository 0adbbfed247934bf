"""Training of one teacher of the drawn world, exact across interruptions.

Every random draw of a step depends on the seed and the step alone, so a run that was interrupted at a
checkpoint ends bit for bit as one that was not (same machine, same number of threads). The learning rate is
constant, so training can end at any time; a last phase lowers it to zero on request.

Shapes: N pictures, B batch, K = 16 channels, H = 8 latent size, S = 16 tokens.
"""

import copy
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.drawings import networks
from workloads.drawings.captions import random_caption, vocabulary
from workloads.drawings.latent_space import LatentSpace
from workloads.drawings.losses import flow_loss, v_loss
from workloads.drawings.pictures import Drawings
from workloads.miniature.networks import TOKENS
from workloads.miniature.recipe_tools import update

BATCH = 32
LEARNING_RATE = {"unet": 1e-3, "transformer": 1.4e-3}
WARM_UP_STEPS = 100
CAPTION_DROPOUT = 0.1
EMA_DECAY = 0.999


class Training:
    """Networks, their running average, the optimizer and the count of steps of one teacher."""

    def __init__(self, teacher: str, drawings: Drawings, space: LatentSpace, seed: int) -> None:
        torch.manual_seed(seed)
        self.teacher, self.drawings, self.seed = teacher, drawings, seed
        self.words = vocabulary(drawings.cells)
        self.latents = space.encode(drawings.images)
        self.parts = networks.new_parts(teacher, self.words).train()
        self.average = copy.deepcopy(self.parts).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.parts.parameters(), lr=0.0, betas=(0.9, 0.99))
        self.step = 0
        self.first_step = 0
        """Step at which Adam's moments are new: 0, or that of the weights that training started from."""
        self.core_seconds = 0.0
        """CPU time of all threads, over all runs."""
        self.decay: tuple[int, int] | None = None
        """First step and length of the last phase, in which the rate falls to zero."""
        self._tokenizer = networks.tokenizer(self.words)
        self._schedule = networks.scheduler(teacher)

    def train_step(self) -> float:
        """Do one update and return the loss."""
        started = time.process_time()
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.step)
        rows, ids = self.batch(generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        if self.teacher == "unet":
            loss = v_loss(self.parts, self._schedule, self.latents[rows], ids, generator)
        else:
            loss = flow_loss(self.parts, self.latents[rows], ids, generator)
        update(self.optimizer, loss, self.parts)
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.parts.parameters()), 1 - decay)
        self.core_seconds += time.process_time() - started
        return loss.item()

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw rows (B,) of training pictures and the ids (B, S) of their captions, a tenth of them empty."""
        known = self.drawings.training_rows
        rows = known[torch.randint(len(known), (BATCH,), generator=generator)]
        dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
        rng = random.Random(generator.initial_seed())
        captions = [random_caption(self.drawings.cells[row], rng) for row in rows.tolist()]
        return rows, self.tokenize(["" if drop else c for c, drop in zip(captions, dropped, strict=True)])

    def tokenize(self, captions: Sequence[str]) -> Tensor:
        """Return ids (B, S) of B captions."""
        words = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        ids: Tensor = words.input_ids
        return ids

    def learning_rate(self) -> float:
        """Return the rate of the next step."""
        rate = LEARNING_RATE[self.teacher] * min(1.0, (self.step - self.first_step + 1) / WARM_UP_STEPS)
        if self.decay is None:
            return rate
        first, length = self.decay
        return rate * max(0.0, 1 - (self.step - first) / length)

    @property
    def decayed(self) -> bool:
        """True once the last phase is over."""
        return self.decay is not None and self.step >= sum(self.decay)

    def start_from(self, average: dict[str, Tensor], step: int, core_seconds: float) -> None:
        """Begin with the averaged weights of a finished run, new moments and a new warm-up."""
        for parts in (self.parts, self.average):
            parts.load_state_dict(average)
        self.step = self.first_step = step
        self.core_seconds = core_seconds

    def save(self, path: Path) -> None:
        """Write a checkpoint; an interruption leaves the previous one whole."""
        unfinished = path.with_suffix(".unfinished")
        torch.save(self._state(), unfinished)
        os.replace(unfinished, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; raises ValueError if it is of another split, seed or teacher."""
        state = torch.load(path, weights_only=True)
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ValueError(f"{path} has {name} {state[name]}, not {mine}: give another --out")
        self.parts.load_state_dict(state["parts"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.first_step = state["step"], state["first_step"]
        self.core_seconds, self.decay = state["core_seconds"], state["decay"]

    def _identity(self) -> dict[str, Any]:
        return {"teacher": self.teacher, "seed": self.seed, "split": self.drawings.digest}

    def _state(self) -> dict[str, Any]:
        return self._identity() | {
            "parts": self.parts.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "first_step": self.first_step,
            "core_seconds": self.core_seconds,
            "decay": self.decay,
        }
