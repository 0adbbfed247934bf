"""Distils every backbone of a sweep file into one-step students.

    python -m orchestrator.run sweeps/miniature.yaml --plan
    python -m orchestrator.run sweeps/miniature.yaml --set name=try --set train.steps=50

Runs on the Ray cluster that RAY_ADDRESS names, or on one of its own. Finished trials are kept:
the same command after an interruption goes on where it stopped.
"""

import argparse
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.common.cli import EXIT_USER_ERROR, make_parser, tell
from orchestrator.common.errors import UnfinishedError, UserError
from orchestrator.common.library_logging import quieten
from orchestrator.common.redaction import redact, redact_tracebacks
from orchestrator.common.signals import interrupt_on_sigterm
from orchestrator.planning.plan import Plan

if TYPE_CHECKING:
    from orchestrator.common.storage import Store
    from orchestrator.planning.capacity import Capacity

STORAGE, STORAGE_VARIABLE = "results", "ORCHESTRATOR_STORAGE"
STORAGE_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)
EXIT_FAILED_TRIALS, EXIT_INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    redact_tracebacks()
    interrupt_on_sigterm()
    # Before any library is imported: some read their settings then.
    quieten()
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        tell(error)
        return EXIT_FAILED_TRIALS if isinstance(error, UnfinishedError) else EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted: the same command takes the sweep up again", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "orchestrator.run",
        __doc__,
        "exit status: 0 every trial has a result, 1 some trial failed or the end was not reached, "
        "2 the sweep file or its surroundings are wrong (nothing was started), 130 interrupted.",
    )
    parser.add_argument("sweep", type=Path, help="the sweep file; sweeps/ holds commented ones")
    parser.add_argument(
        "--plan", action="store_true", help="print trials, resources, memory and time; start nothing"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a setting: train.steps=100 also for backbones and arms that have their own, "
        "backbones.unet-v.train.steps=100 for one; repeatable, the last one holds",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database (tracking.uri)")
    parser.add_argument(
        "--storage", metavar="PATH", help=f"folder or bucket of everything (storage, or {STORAGE_VARIABLE})"
    )
    parser.add_argument(
        "--cluster",
        type=Path,
        metavar="FILE",
        help="manifest of the RayCluster: with --plan, whether and how often it holds a trial; without, its "
        "groups in place of those that Kubernetes tells on the head",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    from orchestrator.config.sweep_file import load_sweep
    from orchestrator.planning.estimate import check_budget, check_memory
    from orchestrator.planning.plan import make_plan

    plan = make_plan(load_sweep(options.sweep, options.overrides))
    check_memory(plan)
    check_budget(plan)
    root = options.storage or plan.sweep.storage or os.environ.get(STORAGE_VARIABLE) or STORAGE
    _check_root(root)
    uri = options.tracking_uri or plan.sweep.tracking.uri
    capacity = None
    if options.cluster is not None:
        from orchestrator.planning.capacity import read_capacity

        capacity = read_capacity(options.cluster)
        capacity.max_concurrent_trials(plan)
    return _print_plan(plan, root, uri, capacity) if options.plan else _launch(plan, root, uri, capacity)


def _check_root(root: str) -> None:
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and "://" not in root and not root.startswith(("/", "~")):
        raise UserError(
            f"storage {root}: is relative, and a submitted job's working folder is deleted with "
            f"it: give --storage, or {STORAGE_VARIABLE}, an absolute path or a bucket"
        )


def _print_plan(plan: Plan, root: str, uri: str | None, capacity: "Capacity | None") -> int:
    from orchestrator.planning.describe import describe_plan

    tracking = uri or os.environ.get("MLFLOW_TRACKING_URI") or "SQLite in the storage"
    print(redact(describe_plan(plan, root, tracking, capacity)))
    return 0


def _launch(plan: Plan, root: str, given_uri: str | None, capacity: "Capacity | None") -> int:
    from orchestrator.common.storage import Store
    from orchestrator.execution.lock import SweepLock

    store = Store(root)
    store.check_writable()
    with SweepLock(store, plan.sweep.name), _storage_errors():
        return _run_sweep(plan, store, given_uri, capacity)


def _run_sweep(plan: Plan, store: "Store", given_uri: str | None, capacity: "Capacity | None") -> int:
    from orchestrator.execution.ray_cluster import connected
    from orchestrator.planning.backbone_checks import check_backbones

    check_backbones(plan)
    from orchestrator.execution.launch import launch
    from orchestrator.planning.capacity import connected_capacity
    from orchestrator.results.compatibility import check_resumable
    from orchestrator.results.summary import closing_words
    from orchestrator.tracking import Tracker, tracking_uri

    uri = tracking_uri(given_uri, store)
    check_resumable(plan, store, None)
    tracker = Tracker(uri, plan.sweep.name, store, _say)
    _say(f"sweep {plan.sweep.name}: {len(plan.trials)} trials; starting Ray")
    with connected():
        result = launch(plan, store, tracker, capacity or connected_capacity(), _say)
    print(closing_words(result, store.uri(plan.sweep.name), uri))
    return EXIT_FAILED_TRIALS if result["failed"] or result["infer_failures"] else 0


def _say(line: str) -> None:
    print(redact(line), flush=True)


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A storage that fails (a full disk, one that was taken away) ends the launch in a line."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_FAILS:
            raise
        raise UnfinishedError(f"storage: {error}; mend it, then the same command goes on") from None


if __name__ == "__main__":
    sys.exit(main())
