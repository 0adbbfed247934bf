"""The public interface for programs: load a sweep file, plan it, launch it.

    from orchestrator.api import launch, load_sweep, make_plan

    plan = make_plan(load_sweep("sweeps/miniature.yaml", ["train.steps=20"]))
    summary = launch(plan, storage="results")
    print({row.trial: row.score for row in summary.trials})

Call `launch` before `ray` is imported. The commands `orchestrator.run`, `orchestrator.generate` and
`orchestrator.report` are the interface for people.
"""

from orchestrator.common.library_logging import prepare_libraries
from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.capacity import Capacity
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.reporting.rows import SweepSummary

__all__ = ["Plan", "SweepSummary", "launch", "load_sweep", "make_plan"]


def launch(
    plan: Plan, storage: str = "results", tracking: str | None = None, capacity: Capacity | None = None
) -> SweepSummary:
    """Run a sweep and return its results; see `orchestrator.execution.launch.launch`."""
    prepare_libraries()
    # Imported here: Ray reads its environment when it is imported.
    from orchestrator.execution.launch import launch as launch_on_ray

    return launch_on_ray(plan, storage, tracking, capacity)
