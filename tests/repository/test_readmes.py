"""READMEs: links and paths exist, and each `sh` command is run by a test or listed with a reason.

A command in an `sh` block has to be in `RUN`, with the test that runs it or the same command on a smaller
sweep, or begin with an entry of `NOT_RUN`, which gives the reason. `COMMANDS` are the commands as a shell
reads them: continued lines joined, comments dropped, a loop as one command.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("infra", "orchestrator", "sweeps", "tests", "workloads")
GUIDE = REPOSITORY / ".github/CONTRIBUTING.md"
READMES = [
    REPOSITORY / "README.md",
    GUIDE,
    *sorted(path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("README.md")),
]
MOST_LINES = {REPOSITORY / "README.md": 150, GUIDE: 120}
HERE = "tests/repository/test_readmes.py::test_cheap_commands_run"
END_TO_END = "tests/end_to_end/test_run.py"
RUN = {
    "python -m orchestrator.run sweeps/miniature.yaml --plan": HERE,
    "python -m orchestrator.generate --model models:/miniature-pixart@champion "
    "--prompt 'a large circle on the left' --negative-prompt green --count 4 --out pictures": (
        f"{END_TO_END}::test_the_command_draws_with_the_champion"
    ),
    "python -m orchestrator.export --model models:/miniature-unet-v@champion --format lora "
    "--out student.safetensors": (
        "tests/orchestrator/test_export.py::test_an_adapter_student_goes_through_mlflow_into_stock_diffusers"
    ),
    "python -m orchestrator.report --experiment miniature --out report": (
        "tests/orchestrator/test_report.py::test_a_report_is_written_from_mlflow_alone"
    ),
    "python -m orchestrator.report --experiment edge --out report": (
        "tests/orchestrator/test_report.py::test_a_report_is_written_from_mlflow_alone"
    ),
    "python -m orchestrator.report --experiment stability --out report": (
        "tests/orchestrator/test_report.py::test_a_report_is_written_from_mlflow_alone"
    ),
    "python -m orchestrator.run sweeps/backbones.yaml --plan": (
        "tests/orchestrator/planning/test_estimate.py::test_readme_shows_the_plans"
    ),
    "python -m orchestrator.run sweeps/backbones.yaml --plan --set resources.gpu=H200 "
    "--set resources.workers=1 --set budget.price_per_gpu_hour=3.5": (
        "tests/orchestrator/planning/test_estimate.py::test_readme_shows_the_plans"
    ),
    "python -m orchestrator.run sweeps/flow.yaml --plan": (
        "tests/orchestrator/planning/test_estimate.py::test_readme_shows_the_plans"
    ),
    "python -m orchestrator.run sweeps/flow.yaml --plan --set resources.gpu=H200 "
    "--set resources.workers=1 --set budget.price_per_gpu_hour=3.5": (
        "tests/orchestrator/planning/test_estimate.py::test_readme_shows_the_plans"
    ),
    "python -m orchestrator.run sweeps/backbones.yaml --plan --set resources.gpu=A100-40GB "
    "--set budget.price_per_gpu_hour=3.75": (
        "tests/orchestrator/planning/test_estimate.py::test_readme_shows_the_plans"
    ),
    "python -m tests.benchmarks.step": "tests/benchmarks/test_step.py::test_the_figures_of_each_backbone",
}
"""Commands and the tests that run them."""
SECONDS = "has no test: it takes minutes to an hour"
CLUSTER = "needs a cluster, a cloud project or a container registry"
NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install": "installs gigabytes; .ci/run installs the same",
    "pip install --quiet '.[dev]'": "installs gigabytes, and runs these tests; .ci/run runs it",
    "python -m pytest": "runs these tests",
    ".venv/bin/mlflow ui": "serves until it is ended",
    "python -m orchestrator.run sweeps/miniature.yaml --set": "minutes; test_run.py runs a smaller sweep",
    "python -m orchestrator.run sweeps/edge.yaml": SECONDS,
    "python -m orchestrator.run sweeps/pairs.yaml": SECONDS,
    "python -m orchestrator.run sweeps/boot.yaml": SECONDS,
    "python -m orchestrator.run sweeps/miniature.yaml --tracking-uri": "needs a server and a bucket",
    "python -m orchestrator.doctor": "tests/orchestrator/test_doctor.py runs it on another sweep",
    "python -m workloads.scorers.inception": "needs published weights and pictures",
    "python -m workloads.scorers.teacher_gallery": "minutes, and it overwrites the shipped picture",
    "python -m tests.benchmarks.": SECONDS,
    "python -m tests.chaos.soak": SECONDS,
    "ray job submit": "tests/infra/autoscaling and tests/infra/tracking submit a smaller sweep",
    "export RAY_": "names the cluster that `ray job submit` needs",
    "secret()": "tests/infra/tracking runs this block",
    "curl --user admin": "tests/infra/tracking runs this block",
    "until curl": "tests/infra/tracking runs this block",
    "export PROJECT=": CLUSTER,
    "export REGION=": CLUSTER,
    "export REGISTRY=": CLUSTER,
    "export GROUP=": CLUSTER,
    "TAG=": CLUSTER,
    "bash infra/kubernetes/overlays/": "tests/infra/pools.py runs these scripts against stand-ins",
    "for image in training tracking": CLUSTER,
    "kind ": CLUSTER,
    "kubectl ": CLUSTER,
    "helm ": CLUSTER,
    "gcloud ": CLUSTER,
    "eksctl ": CLUSTER,
    "aws ": CLUSTER,
    "az ": CLUSTER,
}
"""Beginnings of commands that no test runs as they are, each with the reason."""
HELP = tuple(f"orchestrator.{name}" for name in ("run", "generate", "export", "report", "relocate", "doctor"))
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:\.ci|\.github|infra|orchestrator|sweeps|tests|workloads)/[\w./-]+)`")
MODULE = re.compile(r"`([\w/]+\.py)`")


def commands(text: str) -> Iterator[str]:
    """The commands of all `sh` blocks in `text`."""
    for block in BLOCK.findall(text):
        loop: list[str] = []
        for line in block.replace("\\\n", " ").splitlines():
            command = " ".join(re.sub(r"(^|\s)#\s.*", "", line).split())
            if loop or command.startswith("for "):
                loop.append(command)
                if command != "done":
                    continue
                command, loop = " ".join(loop), []
            if command:
                yield command
        assert not loop, block


COMMANDS = {(path, command) for path in READMES for command in commands(path.read_text())}


def listed(command: str) -> bool:
    return command in RUN or command.startswith(tuple(NOT_RUN))


def test_every_command_is_run_or_listed() -> None:
    unlisted = [f"{path.relative_to(REPOSITORY)}: {each}" for path, each in COMMANDS if not listed(each)]
    assert not unlisted


def test_no_list_names_a_command_that_is_gone() -> None:
    found = [command for _, command in COMMANDS]
    assert not set(RUN) - set(found)
    assert not [start for start in NOT_RUN if not any(command.startswith(start) for command in found)]


def test_tests_that_run_commands_exist() -> None:
    for command, test in RUN.items():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (REPOSITORY / file).read_text(), command


@pytest.mark.parametrize("command", [command for command, test in RUN.items() if test == HERE])
def test_cheap_commands_run(command: str) -> None:
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep miniature" in done.stdout


@pytest.mark.parametrize("module", HELP)
def test_help_of_each_command(module: str) -> None:
    done = run(f"python -m {module} --help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {module}" in done.stdout


def run(command: str) -> subprocess.CompletedProcess[str]:
    shell = f'python() {{ "{sys.executable}" "$@"; }}\n{command}'
    return subprocess.run(["bash", "-c", shell], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_and_paths_exist(path: Path) -> None:
    text = path.read_text()
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    missing += [name for name in PATH.findall(text) if not (REPOSITORY / name).exists()]
    missing += [name for name in MODULE.findall(text) if not module_exists(name)]
    assert not missing


def module_exists(name: str) -> bool:
    """Return true if a file of the repository has this path, or a path that ends with it."""
    return any(
        path
        for folder in FOLDERS
        for path in (REPOSITORY / folder).rglob(Path(name).name)
        if path.as_posix().endswith(f"/{name}")
    )


@pytest.mark.parametrize("path", MOST_LINES, ids=lambda path: path.name)
def test_no_guide_is_long(path: Path) -> None:
    assert path.read_text().count("\n") <= MOST_LINES[path]


def test_commands_are_read_as_a_shell_reads_them() -> None:
    text = (
        "```sh\na --b \\\n    c    # why\n# alone\n\nfor x in y; do\n    z # 1\ndone\n```\n```text\nno\n```\n"
    )
    assert list(commands(text)) == ["a --b c", "for x in y; do z done"]
