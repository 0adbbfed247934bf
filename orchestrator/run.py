"""Distils every backbone of a sweep file into students of one, two or four steps.

    python -m orchestrator.run sweeps/miniature.yaml --plan
    python -m orchestrator.run sweeps/miniature.yaml --set name=try --set train.steps=50

Runs on the Ray cluster that RAY_ADDRESS names, or on one of its own. Finished trials are kept:
the same command after an interruption goes on where it stopped.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.common.cli import (
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    collector_paused,
    make_parser,
    prepare,
    print_error,
)
from orchestrator.common.errors import UnfinishedError, UserError
from orchestrator.common.redaction import redact

if TYPE_CHECKING:
    from orchestrator.planning.capacity import Capacity
    from orchestrator.planning.plan import Plan

STORAGE, STORAGE_VARIABLE = "results", "ORCHESTRATOR_STORAGE"
EXIT_FAILED_TRIALS = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        prepare(options)
        return _run(options)
    except UserError as error:
        if options.debug:
            raise
        print_error(error)
        return EXIT_FAILED_TRIALS if isinstance(error, UnfinishedError) else EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted. Run the same command to resume.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "orchestrator.run",
        __doc__,
        "exit status: 0 every trial has a result, 1 a trial failed or the launch ended early, "
        "2 the sweep file or its surroundings are wrong (nothing was started), "
        "130 interrupted by Ctrl-C, SIGTERM or SIGHUP.",
    )
    parser.add_argument("sweep", type=Path, help="the sweep file; sweeps/ holds commented ones")
    parser.add_argument(
        "--plan", action="store_true", help="print trials, resources, memory and time; start nothing"
    )
    add_sweep_arguments(parser)
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="manifest of the RayCluster: with --plan, print how many trials it holds; without, use its "
        "groups instead of those that Kubernetes reports on the head",
    )
    return parser


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a sweep and say where it keeps its results."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting: train.steps=100 also for backbones and arms that set it themselves, "
        "backbones.unet-v.train.steps=100 for one; repeatable, the last one counts",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database (tracking.uri)")
    parser.add_argument(
        "--storage", metavar="PATH", help=f"folder or bucket of all results (storage, or {STORAGE_VARIABLE})"
    )


def storage_root(given: str | None, sweep: str | None) -> str:
    """Return the storage that the command gives, else the sweep file, else the environment, else a folder."""
    return given or sweep or os.environ.get(STORAGE_VARIABLE) or STORAGE


def _run(options: argparse.Namespace) -> int:
    from orchestrator.config.sweep_file import load_sweep
    from orchestrator.planning.estimate import check_budget, check_memory
    from orchestrator.planning.plan import make_plan

    with collector_paused():
        plan = make_plan(load_sweep(options.sweep, options.overrides))
        check_memory(plan)
        check_budget(plan)
    root = storage_root(options.storage, plan.sweep.storage)
    _check_root(root)
    uri = options.tracking_uri or plan.sweep.tracking.uri
    capacity = None
    if options.cluster is not None:
        from orchestrator.execution.cluster_capacity import read_capacity

        capacity = read_capacity(options.cluster)
        capacity.max_concurrent_trials(plan)
    return _print_plan(plan, root, uri, capacity) if options.plan else _launch(plan, root, uri, capacity)


def _check_root(root: str) -> None:
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and "://" not in root and not root.startswith(("/", "~")):
        raise UserError(
            f"storage {root}: is relative, and a submitted job's working folder is deleted with the job: "
            f"set --storage, or {STORAGE_VARIABLE}, to an absolute path or a bucket"
        )


def _print_plan(plan: "Plan", root: str, uri: str | None, capacity: "Capacity | None") -> int:
    from orchestrator.planning.describe import describe_plan

    tracking = uri or os.environ.get("MLFLOW_TRACKING_URI") or "SQLite in the storage"
    with collector_paused():
        text = describe_plan(plan, root, tracking, capacity)
    print(redact(text))
    return 0


def _launch(plan: "Plan", root: str, uri: str | None, capacity: "Capacity | None") -> int:
    from orchestrator.common.storage import Store
    from orchestrator.execution.launch import launch
    from orchestrator.results.summary import closing_table

    summary = launch(plan, root, uri, capacity)
    print(closing_table(summary, Store(root).uri(summary.name), summary.tracking["uri"]))
    return 0 if summary.complete else EXIT_FAILED_TRIALS


if __name__ == "__main__":
    sys.exit(main())
