"""Exchange of small Python objects among all workers of a group."""

from typing import TypeVar

import torch.distributed

T = TypeVar("T")


def gathered(mine: T) -> list[T]:
    """Return the objects of all workers, in the order of ranks; all workers call this together."""
    everyone: list[T] = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def from_rank_0(mine: T) -> T:
    """Return rank 0's object; all workers call this together."""
    box = [mine]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
