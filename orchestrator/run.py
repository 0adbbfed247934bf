"""Distils every backbone of a sweep file into one-step students.

    python -m orchestrator.run sweeps/miniature.yaml --plan
    python -m orchestrator.run sweeps/miniature.yaml --set train.steps=50

Runs on the Ray cluster that RAY_ADDRESS names, or on one of its own. Finished trials are kept:
the same command after an interruption goes on where it stopped.
"""

import argparse
import os
import sys
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.plan import Plan

EXIT_FAILED_TRIALS, EXIT_USER_ERROR, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted: the same command takes the sweep up again", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.run",
        description=summary,
        epilog=f"examples:\n{more}\nexit status: 0 every trial has a result, 1 some trial failed, "
        "2 the sweep file or its surroundings are wrong (nothing was started), 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        help="change a setting, as in train.steps=100 or backbones.unet-v.start_timestep=500; repeatable",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database (tracking.uri)")
    parser.add_argument("--storage", metavar="PATH", help="folder or bucket of everything (storage)")
    return parser


def _run(options: argparse.Namespace) -> int:
    from orchestrator.plan import make_plan
    from orchestrator.plan_text import check_budget
    from orchestrator.sweep_file import load_sweep

    plan = make_plan(load_sweep(options.sweep, options.overrides))
    check_budget(plan)
    root = options.storage or plan.sweep.storage
    _check_root(root)
    uri = options.tracking_uri or plan.sweep.tracking.uri
    return _print_plan(plan, root, uri) if options.plan else _launch(plan, root, uri)


def _check_root(root: str) -> None:
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and "://" not in root and not Path(root).expanduser().is_absolute():
        raise UserError(
            f"storage {root}: is relative, and a submitted job's working folder is deleted with "
            f"it: give --storage an absolute path or a bucket"
        )


def _print_plan(plan: Plan, root: str, uri: str | None) -> int:
    from orchestrator.plan_text import plan_text

    tracking = uri or os.environ.get("MLFLOW_TRACKING_URI") or "SQLite in the storage"
    print(plan_text(plan, root, tracking))
    return 0


def _launch(plan: Plan, root: str, given_uri: str | None) -> int:
    from orchestrator.quiet import quieten

    quieten()
    from orchestrator.backbones import check_backbones
    from orchestrator.cluster import connected
    from orchestrator.storage import Store

    store = Store(root)
    store.check_writable()
    check_backbones(plan)
    from orchestrator.launch import launch
    from orchestrator.summary import closing_words
    from orchestrator.tracking import tracking_uri

    uri = tracking_uri(given_uri, store)
    print(f"sweep {plan.sweep.name}: {len(plan.trials)} trials; starting Ray", flush=True)
    with connected():
        result = launch(plan, store, uri, sys.stdout)
    print(closing_words(result, store.uri(plan.sweep.name), uri))
    return EXIT_FAILED_TRIALS if result["failed"] or result["infer_failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
