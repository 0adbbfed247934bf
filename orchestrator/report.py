"""Compares a sweep's arms over seeds and backbones, from what MLflow holds of it alone.

    python -m orchestrator.report --experiment stability --out report
    python -m orchestrator.report --experiment stability --tracking-uri http://HOST:PORT --out report

Works for every sweep, while it runs too; of one that was recorded more than once (with another
storage) it takes the newest. An arm is a combination of what the sweep varied, seeds apart. Each gets,
by backbone, its mean and interval over seeds, how often it collapsed and how it oscillated along
training; over all backbones its worst case and a rank, with their uncertainty. report.html explains
each number and opens without a network; report.json holds all of them, by trial's seed too.
Takes the MLflow of --tracking-uri, else of MLFLOW_TRACKING_URI, else results/mlflow.db here.
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
    """The command; returns its exit status."""
    from orchestrator.common.library_logging import quieten

    quieten()
    options = _parser().parse_args(arguments)
    return exit_status(lambda: _write(options.experiment, options.tracking_uri, options.out))


def _parser() -> argparse.ArgumentParser:
    end = "exit status: 0, or 2 if there is nothing to report on."
    parser = make_parser("orchestrator.report", __doc__, end)
    parser.add_argument("--experiment", required=True, metavar="NAME", help="the sweep's name")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the two files")
    return parser


def _write(experiment: str, given_uri: str | None, folder: Path) -> None:
    from orchestrator.common.storage import Store
    from orchestrator.tracking import read_sweep, tracking_uri

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
