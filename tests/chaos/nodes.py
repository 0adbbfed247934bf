"""Ray's own cluster of several nodes on one machine, in a process of its own; told what to do by lines.

Apart from the tests' process, since Ray keeps the first token that a process has shown it.
Commands: `add CPUS`; `lose PID`, the node on which that process runs; `drain PID SECONDS`, the notice
that a cloud gives before it takes a spot machine away; `take`, that node goes; `end`. Each is answered
by a line.
"""

import sys
import time
from typing import Any

import psutil
from ray.cluster_utils import Cluster


def main(port: str) -> None:
    dashboard = {"include_dashboard": True, "dashboard_port": int(port), "dashboard_host": "127.0.0.1"}
    # A head that holds no training worker.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **dashboard})
    print(f"done: head {cluster.address}", flush=True)
    for line in sys.stdin:
        what, *arguments = line.split()
        if what == "add":
            cluster.add_node(num_cpus=int(arguments[0]))
        elif what == "lose":
            cluster.remove_node(_node_of(cluster, int(arguments[0])), allow_graceful=False)
        elif what == "drain":
            leaving = _node_of(cluster, int(arguments[0]))
            _drain(cluster, leaving, float(arguments[1]))
        elif what == "take":
            cluster.remove_node(leaving, allow_graceful=False)
        elif what == "end":
            break
        print(f"done: {what}", flush=True)
    cluster.shutdown()


def _node_of(cluster: Any, process: int) -> Any:
    parents = {parent.pid for parent in psutil.Process(process).parents()}
    return next(n for n in cluster.worker_nodes if n.all_processes["raylet"][0].process.pid in parents)


def _drain(cluster: Any, node: Any, seconds: float) -> None:
    """As `ray drain-node` does it."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = int(1000 * (time.time() + seconds))
    accepted, why = GcsClient(address=cluster.gcs_address).drain_node(node.node_id, reason, "spot", deadline)
    assert accepted, why


if __name__ == "__main__":
    main(sys.argv[1])
