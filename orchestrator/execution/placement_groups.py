"""The CPUs and GPUs of a training group, which stay taken when the trial's process dies: Ray 2.60
gives a placement group back when its job ends, or when it is told to.
"""

from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group


def current_id() -> str:
    """Of the group that this worker belongs to: what `give_back` is to be told."""
    group = get_current_placement_group()
    assert group is not None, "a worker of Ray Train has one"
    return str(group.id.hex())


def give_back(bundles: str) -> None:
    """Whatever is still taken of them; what runs there is killed."""
    remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(bundles)))
