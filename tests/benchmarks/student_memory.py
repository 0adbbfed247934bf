"""Memory of a training with a whole student and with adapters on the teacher's network, by torch's allocator.

    python -m tests.benchmarks.student_memory [NAME ...] [--batch 16]

Teacher, student and fake score of a miniature are loaded and trained for two steps in float32, once with all
of the student's weights and once with `student_lora`. AdamW's moments exist from the second step on.
"""

import argparse

import torch

from tests.benchmarks.memory import peak_bytes
from workloads.backbones.backbone import load_backbone
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import LoraSettings
from workloads.students.ema import AverageWeights
from workloads.students.student import new_student
from workloads.training.step import make_engines, train_step

ADAPTERS = LoraSettings(16, 16, ("all",))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="miniatures; by default all")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names or TEACHERS:
        network = sum(p.nbytes for p in load_backbone(str(WEIGHTS / name)).network.parameters())
        whole, adapters = (peak(name, options.batch, lora) for lora in (None, ADAPTERS))
        print(
            f"{name}: network {network / 1e6:.1f} MB; peak with a whole student {whole / 1e6:.1f} MB, "
            f"with adapters {adapters / 1e6:.1f} MB ({adapters / whole:.2f})",
            flush=True,
        )


def peak(name: str, batch: int, student_lora: LoraSettings | None) -> int:
    """Return the most bytes that a training of two steps holds, prompts aside."""
    encoder = TextEncoder(str(WEIGHTS / name))
    prompts, null = encoder.encode(["a red circle"] * batch), encoder.encode([""])
    train = PGSBSettings(batch_size=batch, student_lora=student_lora, lora=ADAPTERS)

    def work() -> None:
        backbone = load_backbone(str(WEIGHTS / name))
        student = new_student(backbone, None, train.student_lora)
        objective = make_objective(backbone, null, train)
        engines = make_engines(student, objective, train)
        average = AverageWeights(engines[STUDENT].weights, train.ema_decay)
        generator = torch.Generator().manual_seed(0)
        for step in (1, 2):
            train_step(objective, engines, Batch(prompts), objective.draw(batch, generator), step)
            average.update(engines[STUDENT].weights, step)

    return peak_bytes(work)


if __name__ == "__main__":
    main()
