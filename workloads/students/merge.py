"""Makes one student of two by averaging their weights (SwiftBrush v2).

    python -m workloads.students.merge FIRST SECOND OUT [--share 0.5]

    theta = share theta_FIRST + (1 - share) theta_SECOND

Both are students of one teacher (pipeline folders, as a training saves them), and so is OUT.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from workloads.backbones.backbone import load_network, load_scheduler_config
from workloads.backbones.families import family_of
from workloads.students.defaults import FILE as DEFAULTS
from workloads.students.student import NO_STUDENTS


def fuse(first: str, second: str, out: Path, share: float = 0.5) -> None:
    """Writes the fused student to the new folder `out`; all but its network is `first`'s.

    Raises:
        ValueError: the two are no students of one shape and one start timestep, `share` is not
            within [0, 1], or `out` is there already.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be at least 0 and at most 1, not {share}")
    if out.exists():
        raise ValueError(f"{out} is there already: name a new folder")
    fused = _average(first, second, share)
    part = family_of(first).network
    # The strength that suited one of them need not suit the other.
    own = shutil.ignore_patterns(part, DEFAULTS, *NO_STUDENTS)
    shutil.copytree(first, out, ignore=own)
    fused.half().save_pretrained(out / part)


@torch.no_grad()
def _average(first: str, second: str, share: float) -> Any:
    family = family_of(first)
    if family_of(second) != family or load_scheduler_config(first) != load_scheduler_config(second):
        raise ValueError(f"{second!r} is of another family than {first!r}, or starts at another timestep")
    fused, other = (load_network(source, family, torch.float32) for source in (first, second))
    weights, others = fused.state_dict(), other.state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in others.items()}:
        raise ValueError(f"{second!r} has not the shapes of {first!r}")
    for name, weight in weights.items():
        if weight.is_floating_point():
            weight.copy_(share * weight + (1 - share) * others[name])
    return fused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", help="a student's folder")
    parser.add_argument("second", help="another's")
    parser.add_argument("out", type=Path, help="new folder for the fused student")
    parser.add_argument("--share", type=float, default=0.5, help="of FIRST (default 0.5)")
    given = parser.parse_args()
    try:
        fuse(given.first, given.second, given.out, given.share)
    except ValueError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
