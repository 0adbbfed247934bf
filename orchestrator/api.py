"""The public interface for programs: load a sweep file, plan it, launch it.

    from orchestrator.api import launch, load_sweep, make_plan

    plan = make_plan(load_sweep(Path("sweeps/miniature.yaml"), ["train.steps=20"]))
    summary = launch(plan, storage="results")
    print({row.trial: row.score for row in summary.trials})

The commands `orchestrator.run`, `orchestrator.generate` and `orchestrator.report` are the interface for
people.
"""

from orchestrator.config.sweep_file import load_sweep
from orchestrator.execution.launch import launch
from orchestrator.planning.plan import make_plan
from orchestrator.reporting.rows import SweepSummary

__all__ = ["SweepSummary", "launch", "load_sweep", "make_plan"]
