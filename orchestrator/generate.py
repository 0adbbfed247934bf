"""Draws with a registered student, one network call for each picture.

    python -m orchestrator.generate --model models:/miniature-pixart@champion \\
        --prompt 'a large circle on the left' --negative-prompt green --count 4 --out pictures

Uses the MLflow of --tracking-uri, else of MLFLOW_TRACKING_URI, else results/mlflow.db in this folder. A
negative prompt is applied at the student's default strength, unless --strength is given. Only weights are
taken from the registry: the code that is stored there is not run.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from orchestrator.common.cli import exit_status, make_parser
from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError

DATABASE = Path("results/mlflow.db")
LARGEST_SEED = 2**62
"""Half of what torch takes, so that the seeds of further pictures fit too."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(options, lambda: _generate(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("orchestrator.generate", __doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="URI", help="models:/NAME@champion or models:/NAME/VERSION")
    add("--prompt", required=True, action="append", help="prompt to draw; repeatable")
    add("--negative-prompt", default="", metavar="TEXT", help="things that the pictures must not show")
    add("--strength", type=_strength, metavar="X", help="strength of attention guidance; 0 turns it off")
    add("--seed", type=_seed, default=0, help="seed of the first picture; the next ones count up (default 0)")
    add("--count", type=_positive, default=1, help="pictures of each prompt (default 1)")
    add("--out", type=Path, default=Path("pictures"), metavar="FOLDER", help="default: pictures")
    add("--tracking-uri", metavar="URI", help="MLflow server or database")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {LARGEST_SEED}")
    return value


def _strength(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def _generate(options: argparse.Namespace) -> None:
    if options.strength is not None and not options.negative_prompt:
        raise UserError("--strength: needs a negative prompt: give --negative-prompt too")
    if not options.model.startswith("models:/"):
        raise UserError(f"--model {options.model}: write models:/NAME@champion or models:/NAME/VERSION")
    tracking = _tracking(options.tracking_uri)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written: {error.strerror or error}") from None
    from orchestrator.tracking.registry import fetch_student
    from workloads.backbones.load_errors import NOT_LOADED, describe
    from workloads.students.sampler import Generator

    with tempfile.TemporaryDirectory() as folder:
        try:
            student = Generator(fetch_student(options.model, tracking, Path(folder)))
        except NOT_LOADED as error:
            raise UserError(f"model {options.model} cannot be opened: {describe(error)}") from None
    negative = options.negative_prompt
    for text in (*options.prompt, negative):
        if note := student.cut_note(text):
            print(f"warning: {note}", file=sys.stderr)
    for prompt in options.prompt:
        for seed in range(options.seed, options.seed + options.count):
            path = options.out / f"{_file_name(prompt, negative)}-{seed}.png"
            path.write_bytes(student.png(prompt, seed, negative, options.strength))
            print(path)


def _tracking(given: str | None) -> str:
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and not DATABASE.exists():
        raise UserError(
            f"{DATABASE}: does not exist here: give --tracking-uri, as in sqlite:///PATH/mlflow.db"
        )
    return uri or f"sqlite:///{DATABASE}"


def _file_name(prompt: str, negative: str) -> str:
    """Return readable words and a digest, since different prompts may reduce to the same words."""
    words = f"{prompt} not {negative}" if negative else prompt
    readable = "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split())[:80] or "picture"
    return f"{readable}-{digest([prompt, negative])[:6]}"


if __name__ == "__main__":
    sys.exit(main())
