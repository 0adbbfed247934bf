"""Draws with a registered student, in as many network calls a picture as it was trained for: 1, 2 or 4.

    python -m orchestrator.generate --model models:/miniature-pixart@champion \\
        --prompt 'a large circle on the left' --negative-prompt green --count 4 --out pictures
    python -m orchestrator.generate --model models:/miniature-pixart/1 --prompt 'a circle' --out circle.png

Uses the MLflow of --tracking-uri, else of MLFLOW_TRACKING_URI, else results/mlflow.db in this folder. A
negative prompt is applied at the student's default strength, unless --strength is given. A student that reads
its guidance scale draws at its default one, unless --guidance-scale is given. Only weights are taken from the
registry: the code that is stored there is not run.
"""

import argparse
import math
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.common.cli import exit_status, make_parser
from orchestrator.common.digests import digest
from orchestrator.common.errors import UserError
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.scale_range import ScaleRange

DATABASE = Path("results/mlflow.db")
NAME_BYTES = 200
"""Longest readable part of a file's name; file systems allow 255 bytes, digest, seed and suffix included."""
PNG = ".png"
OTHER_FORMATS = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LARGEST_SEED = 2**62
"""Half of what torch takes, so that the seeds of further pictures fit too."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(options, lambda: _generate(options))


def _parser() -> argparse.ArgumentParser:
    end = "exit status: 0 every picture is drawn, 2 something given cannot be used, 130 interrupted."
    parser = make_parser("orchestrator.generate", __doc__, end)
    add = parser.add_argument
    add("--model", required=True, metavar="URI", help="models:/NAME@champion or models:/NAME/VERSION")
    add("--prompt", required=True, action="append", type=_text, help="prompt to draw; repeatable")
    add(
        "--negative-prompt", default="", type=_text, metavar="TEXT",
        help="things that the pictures must not show",
    )  # fmt: skip
    add("--strength", type=_strength, metavar="X", help="strength of attention guidance; 0 turns it off")
    add(
        "--guidance-scale", type=_scale, metavar="K",
        help="guidance scale, for a student that reads one (trained with guidance_input)",
    )  # fmt: skip
    add("--seed", type=_seed, default=0, help="seed of the first picture; the next ones count up (default 0)")
    add("--count", type=positive, default=1, help="pictures of each prompt (default 1)")
    add(
        "--out",
        type=Path,
        default=Path("pictures"),
        metavar="PATH",
        help="folder, or a name.png for one picture; default: pictures",
    )
    add("--tracking-uri", metavar="URI", help="MLflow server or database")
    return parser


def _text(text: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError(f"{ascii(text)[:80]} holds bytes that are not UTF-8")
    return text


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def positive(text: str) -> int:
    """Return the whole number in an option, which must be above 0.

    Raises:
        ArgumentTypeError: it is not.
    """
    value = _whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _seed(text: str) -> int:
    value = _whole(text)
    if not 0 <= value <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {LARGEST_SEED}")
    return value


def _strength(text: str) -> float:
    try:
        return AttentionGuidanceSettings("nasa", float(text)).strength
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1000") from None


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _generate(options: argparse.Namespace) -> None:
    if options.strength is not None and not options.negative_prompt:
        raise UserError("--strength: needs a negative prompt: give --negative-prompt too")
    check_model(options.model)
    _check_out(options)
    tracking = tracking_of(options.tracking_uri)
    from orchestrator.tracking.registry import fetch_student
    from workloads.students.sampler import Generator

    with tempfile.TemporaryDirectory() as folder, student_errors(options.model, "opened"):
        student = Generator(fetch_student(options.model, tracking, Path(folder)))
    negative = options.negative_prompt
    scale = options.guidance_scale
    if scale is not None:
        _check_scale(options.model, student.scales, scale)
    for text in (*options.prompt, negative):
        if note := student.cut_note(text):
            print(f"warning: {note}", file=sys.stderr)
    for prompt in options.prompt:
        for seed in range(options.seed, options.seed + options.count):
            content = student.png(prompt, seed, negative, options.strength, scale)
            print(_write(options.out, _file_name(prompt, negative, scale), seed, content))


def _check_scale(model: str, scales: ScaleRange | None, scale: float) -> None:
    """Check that a student can draw at a guidance scale.

    Raises:
        UserError: It reads none, or was not trained at this one.
    """
    if scales is None:
        raise UserError(f"--guidance-scale: {model} does not read guidance scales: leave the option out")
    try:
        scales.check(scale)
    except ValueError as error:
        raise UserError(f"--guidance-scale: {error}") from None


def check_model(uri: str) -> None:
    """Check that `uri` is one of a registered model; ask nothing.

    Raises:
        UserError: it is not.
    """
    if not uri.startswith("models:/"):
        raise UserError(f"--model {uri}: write models:/NAME@champion or models:/NAME/VERSION")


def _check_out(options: argparse.Namespace) -> None:
    """Check that the pictures can be written; make their folder.

    Raises:
        UserError: they cannot.
    """
    out = options.out
    if out.suffix.lower() in OTHER_FORMATS:
        raise UserError(f"--out {out}: pictures are PNG files: end the name with {PNG}, or name a folder")
    if _is_file(out) and len(options.prompt) * options.count > 1:
        raise UserError(f"--out {out}: is one file for several pictures: name a folder")
    try:
        folder = out.parent if _is_file(out) else out
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None


def _is_file(out: Path) -> bool:
    return out.suffix.lower() == PNG and not out.is_dir()


@contextmanager
def student_errors(model: str, work: str) -> Iterator[None]:
    """Turn errors of a student's files, and a full temporary folder, into one line.

    Args:
        model: URI of the student.
        work: what is done with it: `opened`.
    """
    from workloads.backbones.load_errors import NOT_LOADED, describe

    try:
        yield
    except NOT_LOADED as error:
        raise UserError(f"model {model} cannot be {work}: {describe(error)}") from None


def _write(out: Path, name: str, seed: int, content: bytes) -> Path:
    """Write a picture completely or not at all; return its path, in a folder NAME-SEED.png.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    path = out if _is_file(out) else out / f"{name}-{seed}{PNG}"
    aside = path.with_name(f".{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def tracking_of(given: str | None) -> str:
    """Return the tracking URI of a command: the given one, that of the environment, or the local database.

    Raises:
        UserError: there is none of them.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and not DATABASE.exists():
        raise UserError(
            f"{DATABASE}: does not exist here: give --tracking-uri, as in sqlite:///PATH/mlflow.db"
        )
    return uri or f"sqlite:///{DATABASE}"


def _file_name(prompt: str, negative: str, scale: float | None) -> str:
    """Return readable words and a digest, since different prompts may reduce to the same words."""
    words = f"{prompt} not {negative}" if negative else prompt
    words = words if scale is None else f"scale {scale:g} {words}"
    kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in words.lower())
    readable = "-".join(kept.split())[:80].encode()[:NAME_BYTES].decode(errors="ignore")
    return f"{readable or 'picture'}-{digest([prompt, negative, *([] if scale is None else [scale])])[:6]}"


if __name__ == "__main__":
    sys.exit(main())
