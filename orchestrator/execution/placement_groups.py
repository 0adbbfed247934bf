"""The CPUs and GPUs of a training group, which stay reserved when the trial's process dies.

Ray 2.60 releases a placement group when its job ends, or when it is asked to.
"""

from ray.util.placement_group import get_current_placement_group, remove_placement_group

from orchestrator.common.ray_internals import placement_group


def current_id() -> str:
    """Return the hex id of this worker's placement group."""
    group = get_current_placement_group()
    assert group is not None, "a worker of Ray Train has one"
    return str(group.id.hex())


def release(hex_id: str) -> None:
    """Release a placement group; processes that still run in it are killed."""
    remove_placement_group(placement_group(hex_id))
