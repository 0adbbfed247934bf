"""The CPUs and GPUs of a training group, which stay reserved when the trial's process dies.

Ray 2.60 releases a placement group when its job ends, or when it is asked to.
"""

from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group


def current() -> PlacementGroup:
    """Return the placement group of this worker."""
    group = get_current_placement_group()
    assert group is not None, "a worker of Ray Train has one"
    return group


def release(group: PlacementGroup) -> None:
    """Release a placement group; processes that still run in it are killed."""
    remove_placement_group(group)
