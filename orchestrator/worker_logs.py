"""What a trial's workers wrote to their logs: whose it is, and a copy that outlives the cluster.

Ray keeps a process's log on the node that it runs on. So each worker leaves a note of who it is,
and when a trial has failed the driver asks Ray for the logs of the last that were there.
"""

import logging
import os

import ray
from ray.exceptions import RayError
from ray.util.state import get_log
from ray.util.state.exception import RayStateApiException

from orchestrator.storage import Store

LINES = 2000
"""Of a log, the last so many are kept."""
SECONDS = 20
"""For which an agent of Ray's is waited for."""


def sign(store: Store, folder: str, who: str, rank: int) -> None:
    """Leaves this worker's note in `folder`, and has its log say who wrote it, from the first line on."""
    context = ray.get_runtime_context()
    print(f"{who}: process {os.getpid()} on node {context.get_node_id()}", flush=True)
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s", force=True)
    store.write_json(f"{folder}/rank-{rank:04d}.json", {"actor": context.get_actor_id()})


def read_logs(store: Store, folder: str) -> dict[str, str]:
    """Of each worker that left a note in `folder`, the end of its logs, by name of a file."""
    found = {}
    for name in store.files(folder):
        actor = store.read_json(name)["actor"]
        for suffix in ("out", "err"):
            found[f"{name.rsplit('/', 1)[-1].removesuffix('.json')}.{suffix}.txt"] = _log(actor, suffix)
    return found


def _log(actor: str, suffix: str) -> str:
    # Else Ray takes the address that the last `ray start` left in a file, of whichever cluster.
    address = ray.get_runtime_context().gcs_address
    try:
        return "".join(get_log(address, actor_id=actor, suffix=suffix, tail=LINES, timeout=SECONDS))
    except (RayError, RayStateApiException, OSError) as error:
        # Gone with its node, most likely.
        return f"Ray has no log of it any more: {str(error).splitlines()[0][:300]}\n"
