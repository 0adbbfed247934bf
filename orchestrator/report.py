"""Compares a sweep's arms over seeds and backbones, from MLflow alone.

    python -m orchestrator.report --experiment stability --out report
    python -m orchestrator.report --experiment stability --tracking-uri http://HOST:PORT --out report

Works for every sweep, also while it runs; of several sweeps of one name in different storages it takes the
newest. An arm is a combination of swept settings, without the seed. For each arm and backbone the report has
the mean and interval over seeds, the rate of collapses and the oscillation along training; over all
backbones its worst case and a rank, with their uncertainty. report.html explains each number and opens
without a network; report.json holds all of them. Uses the MLflow of --tracking-uri, else of
MLFLOW_TRACKING_URI, else results/mlflow.db in this folder.
"""

import argparse
import html
import json
import sys
from pathlib import Path

from orchestrator.analysis.seed_study import study
from orchestrator.common.cli import exit_status, make_parser
from orchestrator.common.errors import UserError
from orchestrator.common.redaction import redact
from orchestrator.reporting.html import whole_page
from orchestrator.reporting.study_report import study_parts

STORAGE = "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(options, lambda: _write(options.experiment, options.tracking_uri, options.out))


def _parser() -> argparse.ArgumentParser:
    end = "exit status: 0, or 2 if there is nothing to report on."
    parser = make_parser("orchestrator.report", __doc__, end)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="the sweep's name")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the two files")
    return parser


def _write(experiment: str, given_uri: str | None, folder: Path) -> None:
    from orchestrator.common.storage import Store
    from orchestrator.tracking.history import read_sweep
    from orchestrator.tracking.server import tracking_uri

    uri = tracking_uri(given_uri, Store(STORAGE))
    parent, trainings = read_sweep(uri, experiment)
    found = study(trainings)
    about = {"experiment": experiment, "tracking": redact(uri), "parent_run": parent}
    where = html.escape(f"Experiment {experiment} at {about['tracking']}, parent run {parent}.")
    page = whole_page(experiment, [f"<h1>{html.escape(experiment)}</h1><p>{where}</p>", *study_parts(found)])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(about | found, indent=1) + "\n")
        (folder / "report.html").write_text(page)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror or error}") from None
    print(f"{len(trainings)} trainings: {folder / 'report.html'}, {folder / 'report.json'}")


if __name__ == "__main__":
    sys.exit(main())
