"""Checks this machine, and all that a sweep needs, before a GPU is taken.

    python -m orchestrator.doctor
    python -m orchestrator.doctor sweeps/miniature.yaml
    python -m orchestrator.doctor my-sweep.yaml --storage s3://my-bucket/sweeps --set resources.workers=2

One line for each finding: `ok`; `warn`: the sweep runs, but slowly or at a risk; `fail`: it would end with an
error. Warnings and failures say what to do. Checked are: versions of Python and of the libraries, the sweep's
own settings, processors, memory, shared memory, temporary folder and open files as Ray needs them, the GPU
driver, GPUs as torch sees them, the storage (a file is written, read and deleted; in a new bucket the
empty entry of its folder stays), free disk, MLflow and its login, the clock, and the licences of the sweep's
models on the hub. Without a sweep file a missing GPU is no failure.
Where RAY_ADDRESS is set, GPUs and processors are the cluster's, and are not checked here.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from orchestrator.common.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, make_parser, prepare, print_error
from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.run import add_sweep_arguments, storage_root

EXIT_FAILED_CHECKS = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    prepare(options)
    try:
        return _diagnose(options)
    except UserError as error:
        if options.debug:
            raise
        print_error(error)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "orchestrator.doctor",
        __doc__,
        "exit status: 0 no check failed, 1 a check failed, 2 the sweep file is wrong (nothing was checked).",
    )
    parser.add_argument("sweep", type=Path, nargs="?", help="the sweep file; without one, the machine alone")
    add_sweep_arguments(parser)
    return parser


def _diagnose(options: argparse.Namespace) -> int:
    from orchestrator.config.sweep_file import load_sweep
    from orchestrator.diagnosis.catalogue import CHECKS
    from orchestrator.diagnosis.checks import Level, Subject, examine
    from orchestrator.planning.plan import make_plan

    if options.overrides and options.sweep is None:
        raise UserError("--set: needs a sweep file: give one")
    plan = make_plan(load_sweep(options.sweep, options.overrides)) if options.sweep else None
    root = storage_root(options.storage, plan.sweep.storage if plan else None)
    uri = options.tracking_uri or (plan.sweep.tracking.uri if plan else None)
    subject, counts = Subject(root, uri, plan), Counter[Level]()
    for check in CHECKS:
        for finding in examine(check, subject):
            counts[finding.level] += 1
            print(f"{finding.level.name.lower():<6}{check.name:<18}{redact(finding.text)}", flush=True)
    print(f"{counts[Level.FAIL]} failed, {counts[Level.WARN]} warnings, {counts[Level.OK]} in order")
    return EXIT_FAILED_CHECKS if counts[Level.FAIL] else 0


if __name__ == "__main__":
    sys.exit(main())
