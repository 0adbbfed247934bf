"""Small things that all workers of a group must know alike."""

from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gathered(mine: T) -> list[T]:
    """What each worker gave, in the order of ranks; all call it at the same time."""
    everyone: list[T] = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def from_rank_0(mine: T) -> T:
    """What rank 0 gave; all call it at the same time."""
    box = [mine]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
