"""Capacity of a cluster: how many trials its node groups hold, at their largest size.

`execution.cluster_capacity` reads the groups from Ray, from Kubernetes or from a manifest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.common.errors import UserError
from orchestrator.config.gpu_sharing import holders
from orchestrator.planning.plan import Plan

GPU_LABEL = "gpu"
"""Ray label of a node: its kind of GPU, by a name in `gpu_specs.GPUS`. Ray's own label, which holds the
driver's name of the GPU, does not distinguish an A100 of 40 GB from one of 80."""
ROUNDING = 1e-6


@dataclass(frozen=True)
class NodeGroup:
    """A group of identical nodes."""

    name: str
    cpus: float
    gpus: float
    max_nodes: int
    """Number of nodes at the group's largest size."""
    labels: Mapping[str, str]

    def workers(self, plan: Plan) -> int:
        """Return how many workers of a trial all nodes hold; 0 if the kind of GPU is another."""
        return self.max_nodes * self.workers_of_a_node(plan)

    def workers_of_a_node(self, plan: Plan) -> int:
        """Return how many workers of a trial one node holds; 0 if the kind of GPU is another."""
        requested = plan.sweep.resources
        if requested.gpu is not None and self.labels.get(GPU_LABEL, requested.gpu) != requested.gpu:
            return 0
        each = self.cpus / requested.cpus_per_worker
        if requested.gpus_per_worker:
            each = min(each, holders(self.gpus, requested.gpus_per_worker))
        return int(each + ROUNDING)

    def __str__(self) -> str:
        kind = f" {self.labels[GPU_LABEL]}" if GPU_LABEL in self.labels else ""
        gpus = f" and {self.gpus:g} GPUs{kind}" if self.gpus else ""
        return f"{self.name}: {self.max_nodes} x {self.cpus:g} CPUs{gpus}"


@dataclass(frozen=True)
class Capacity:
    """All node groups of a cluster, at their largest size."""

    groups: Sequence[NodeGroup]

    def max_concurrent_trials(self, plan: Plan) -> int:
        """Return how many of the plan's trials run at once.

        Raises:
            UserError: the cluster cannot hold a single one, which would wait without end.
        """
        resources = plan.sweep.resources
        trials = min(
            self._trials_by_workers(plan),
            int(sum(group.max_nodes * group.cpus for group in self.groups) / plan.cpus_per_trial + ROUNDING),
        )
        if trials == 0:
            kind = f" of {resources.gpu}" if resources.gpu else ""
            raise UserError(
                f"sweep {plan.sweep.name}: a trial requests {resources.workers} workers of "
                f"{resources.cpus_per_worker:g} CPUs and {resources.gpus_per_worker:g} GPUs{kind}, and "
                f"{plan.cpus_per_trial:g} CPUs in total; the cluster cannot hold one such trial ({self}): "
                f"lower resources.workers or cpus_per_worker, or enlarge the cluster"
            )
        return min(trials, resources.max_concurrent_trials or len(plan.trials), len(plan.trials))

    def _trials_by_workers(self, plan: Plan) -> int:
        workers = plan.sweep.resources.workers
        if self.every_node_holds_a_trial(plan):
            return sum(group.max_nodes * (group.workers_of_a_node(plan) // workers) for group in self.groups)
        return sum(group.workers(plan) for group in self.groups) // workers

    def every_node_holds_a_trial(self, plan: Plan) -> bool:
        """Return true if each node that can hold a GPU worker of a trial can hold all of its workers.

        Then a trial's workers share no network. Without GPUs they may lie on any nodes.
        """
        if not plan.gpus_per_trial:
            return False
        held = [group.workers_of_a_node(plan) for group in self.groups if group.max_nodes]
        return all(count >= plan.sweep.resources.workers for count in held if count)

    def node_labels(self, plan: Plan) -> dict[str, str]:
        """Return the node labels that a trial requires: the kind of GPU, if nodes have that label."""
        kind = plan.sweep.resources.gpu
        labelled = any(GPU_LABEL in group.labels for group in self.groups)
        return {GPU_LABEL: kind} if kind is not None and labelled else {}

    def __str__(self) -> str:
        return "; ".join(str(group) for group in self.groups if group.max_nodes and group.cpus) or "no CPUs"
