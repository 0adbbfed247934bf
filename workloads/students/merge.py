"""Merges two students of one teacher into a new one by averaging their weights (SwiftBrush v2).

    python -m workloads.students.merge FIRST SECOND OUT [--share 0.5]

    theta_OUT = share theta_FIRST + (1 - share) theta_SECOND

All three are pipeline folders as a training saves them. The other parts of OUT are those of FIRST. It has no
default attention guidance: a scale that suits FIRST need not suit the merged student.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from workloads.backbones.backbone import load_network, load_schedule, load_scheduler_config
from workloads.backbones.families import family_of
from workloads.backbones.teacher_pipeline import load_scheduler
from workloads.students.scale_range import load_scales
from workloads.students.schedulers import student_steps
from workloads.students.student_folder import write_student_folder


def merge_students(first: str, second: str, out: Path, share: float = 0.5) -> None:
    """Write the weighted average of two students to the new folder `out`.

    Raises:
        ValueError: the students differ in family, start timestep, steps or shapes, or read their guidance
            scale, `share` is outside [0, 1], or `out` exists.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be at least 0 and at most 1, not {share}")
    if out.exists():
        raise ValueError(f"{out} already exists: name a new folder")
    for source in (first, second):
        if load_scales(Path(source)) is not None:
            raise ValueError(f"{source!r} reads its guidance scale, and such students cannot be merged")
    write_student_folder(first, _average(first, second, share), load_scheduler(first), out)


@torch.no_grad()
def _average(first: str, second: str, share: float) -> Any:
    """Return `first`'s network in float32 with the averaged weights."""
    family = family_of(first)
    same = family_of(second) == family
    if same and len({student_steps(load_scheduler_config(source)) for source in (first, second)}) > 1:
        raise ValueError(f"{second!r} and {first!r} differ in steps: merge students of as many steps")
    if not same or not load_schedule(first).agrees_with(load_schedule(second)):
        raise ValueError(
            f"{second!r} and {first!r} differ in family or start timestep: merge students of one teacher"
        )
    merged, other = (load_network(source, family, torch.float32) for source in (first, second))
    weights, others = merged.state_dict(), other.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in others.items()}:
        raise ValueError(f"{second!r} and {first!r} differ in shapes: merge students of one teacher")
    for name, weight in weights.items():
        if weight.is_floating_point():
            weight.copy_(share * weight + (1 - share) * others[name])
    return merged


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m workloads.students.merge",
        description=summary,
        epilog=rest.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", help="folder of the first student")
    parser.add_argument("second", help="folder of the second student, of the same teacher and start timestep")
    parser.add_argument("out", type=Path, help="folder to create for the merged student")
    parser.add_argument(
        "--share", type=float, default=0.5, help="weight of FIRST, from 0 to 1 (default %(default)s)"
    )
    return parser


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    try:
        merge_students(given.first, given.second, given.out, given.share)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
