"""Writes a registered student in the format of another tool.

    python -m orchestrator.export --model models:/miniature-unet-v@champion \\
        --format lora --out student.safetensors
    python -m orchestrator.export --model models:/my-sdxl@champion \\
        --format kohya --rank 32 --out my-sdxl.safetensors
    python -m orchestrator.export --model models:/my-sdxl/3 --format single-file --out my-sdxl.safetensors
    python -m orchestrator.export --model models:/my-sdxl@champion --format diffusers --out folder \\
        --push me/my-sdxl

formats:
    diffusers    a pipeline folder, for DiffusionPipeline.from_pretrained
    lora         a LoRA of the base model, for load_lora_weights and fuse_lora of diffusers
    kohya        the same in the names that ComfyUI and AUTOMATIC1111 read
    single-file  one checkpoint with all parts, in the original layout: Stable Diffusion 1.5, 2.1 and SDXL

A path that ends with .safetensors is one file; any other is a new folder, which also holds the card, the
pictures and the scheduler. The LoRA of an adapter student is what was trained. A whole student becomes one by
truncated singular value decomposition, and the output says how much of the student it holds at --rank.

Uses the MLflow of --tracking-uri, else of MLFLOW_TRACKING_URI, else results/mlflow.db in this folder. Only
weights are taken from the registry: the code that is stored there is not run. The upload needs a token with
the right to write: `hf auth login`, or HF_TOKEN.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.common.cli import exit_status, make_parser
from orchestrator.common.errors import UserError
from orchestrator.generate import check_model, positive, student_errors, tracking_of
from workloads.miniature import teacher_folder

if TYPE_CHECKING:
    from workloads.export.formats import Export, Exported

FORMATS = ("diffusers", "lora", "kohya", "single-file")
RANKED = ("lora", "kohya")
"""Formats that are relative to a base model and have a rank."""
SUFFIX = ".safetensors"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    return exit_status(options, lambda: _export(options))


def _parser() -> argparse.ArgumentParser:
    end = "exit status: 0 it is written, 2 something given cannot be used, 130 interrupted."
    parser = make_parser("orchestrator.export", __doc__, end)
    add = parser.add_argument
    add("--model", required=True, metavar="URI", help="models:/NAME@champion or models:/NAME/VERSION")
    add("--format", required=True, choices=FORMATS, help="see below")
    add("--out", required=True, type=Path, metavar="PATH", help=f"a new file NAME{SUFFIX}, or a new folder")
    add(
        "--rank",
        type=positive,
        metavar="N",
        help="largest rank of a LoRA's layers; default: the adapters' own, and 64 for a whole student",
    )
    add("--base", metavar="SOURCE", help="folder or hub id of the base model, if the recorded one has moved")
    add("--push", metavar="ORG/NAME", help="upload it with its card to the Hugging Face hub too")
    add("--tracking-uri", metavar="URI", help="MLflow server or database")
    return parser


def _export(options: argparse.Namespace) -> None:
    check_model(options.model)
    _check_options(options)
    tracking = tracking_of(options.tracking_uri)
    from orchestrator.tracking.registry import fetch_student

    with tempfile.TemporaryDirectory() as temporary, student_errors(options.model, "exported"):
        _write(options, fetch_student(options.model, tracking, Path(temporary)))


def _check_options(options: argparse.Namespace) -> None:
    """Check the options that need no student.

    Raises:
        UserError: one of them cannot be used.
    """
    for name in ("rank", "base"):
        if getattr(options, name) is not None and options.format not in RANKED:
            raise UserError(
                f"--{name}: format {options.format} is not relative to a base model: leave --{name} out, or "
                f"choose format {' or '.join(RANKED)}"
            )
    _check_out(options.out, options.format)
    if options.push is not None:
        from workloads.export.push import check_push

        try:
            check_push(options.push)
        except ValueError as error:
            raise UserError(f"--push: {error}") from None


def _check_out(out: Path, name: str) -> None:
    if name == "diffusers" and out.suffix == SUFFIX:
        raise UserError(f"--out {out}: format diffusers is a folder: leave {SUFFIX} out")
    if out.exists() or out.is_symlink():
        raise UserError(f"--out {out}: exists already: name a new file or folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except FileExistsError:
        raise UserError(f"--out {out}: cannot be written: {out.parent} is a file") from None
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None


def _write(options: argparse.Namespace, student: Path) -> None:
    """Write the student beside --out, upload it if that is asked for, and give it its name."""
    from workloads.export.formats import export_student
    from workloads.export.lora import BaseModelError

    export = _request(options, student)
    aside = options.out.with_name(f".{options.out.name}.{os.getpid()}.part")
    try:
        result = export_student(student, export, aside)
        for line in _facts(result, export):
            print(line)
        try:
            if options.push is not None:
                print(f"uploaded: {_push(aside, options.push)}")
        finally:  # what took minutes to compute is kept, even if the hub refuses it
            written = result.file if options.out.suffix == SUFFIX and result.file else aside
            written.replace(options.out)
    except BaseModelError as error:
        raise UserError(f"{error}: give the student's own by --base SOURCE") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(options.out)


def _request(options: argparse.Namespace, student: Path) -> "Export":
    """Return what to write.

    Raises:
        UserError: the base model of a LoRA is not known.
        ValueError: the student's family has no such format.
    """
    from workloads.export.formats import Export, check_format
    from workloads.students.origin import Origin, load_origin

    check_format(student, options.format)
    title = options.model.removeprefix("models:/").split("@")[0].split("/")[0]
    place = str(options.push or options.out)
    if options.format not in RANKED:
        return Export(options.format, title, place)
    origin = load_origin(student)
    if origin is None and options.base is None:
        raise UserError(f"model {options.model}: does not say what its base model is: give --base SOURCE")
    origin = origin or Origin(options.base)
    base = teacher_folder(options.base or origin.base)
    return Export(options.format, title, place, base, origin, options.rank)


def _facts(result: "Exported", export: "Export") -> list[str]:
    """Return lines about what was written and how to draw with it."""
    from workloads.export.card import kept_note

    # The folder of diffusers has the scheduler that draws.
    lines = [] if result.file is None else [f"to draw: {result.sampling.advice()}"]
    lora = result.lora
    if lora is None or export.origin is None:
        return lines
    lines.append(f"base model: {export.origin.base}")
    lines += [
        f"{part.part}: {part.kept / (part.layers or 1):.2%} of the change of linear and convolution layers"
        for part in lora.parts
    ]
    lines.append(f"LoRA of rank {lora.rank}: {kept_note(lora)}")
    return lines


def _push(folder: Path, name: str) -> str:
    from workloads.export.push import push_folder

    try:
        return push_folder(folder, name)
    except ValueError as error:
        raise UserError(f"--push: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
