"""Check of the sweep itself: what `--plan` refuses, and the folders of its teachers."""

from collections.abc import Iterator
from pathlib import Path

from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, one_line
from orchestrator.diagnosis.hub import hub_models
from orchestrator.planning.backbone_checks import check_backbones
from orchestrator.planning.estimate import check_budget, check_memory
from workloads.backbones.file_checks import check_files


def check_sweep(subject: Subject) -> Iterator[Finding]:
    """Check memory, budget and every local teacher of the sweep; those on the hub have another check."""
    plan = subject.plan
    if plan is None:
        yield ok("none is given: the machine and the places alone are checked")
        return
    check_memory(plan)
    check_budget(plan)
    # For an id on the hub `check_backbones` would download a file.
    if not hub_models(plan):
        check_backbones(plan)
    for source in dict.fromkeys(trial.source for trial in plan.trials):
        if Path(source).is_dir():
            try:
                check_files(source)
            except ValueError as error:
                yield fail(one_line(error))
    yield ok(f"{plan.sweep.name}: {len(plan.trials)} trials, {plan.gpus_per_trial:g} GPUs for each")
