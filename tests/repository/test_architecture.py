"""The house rules that a machine can check: who imports whom, and how long files are."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ALLOWED = {
    "workloads": (
        "settings", "torchvision_operators", "images", "backbones", "layers", "attention", "students",
        "export", "miniature", "drawings", "objectives", "scorers", "training",
    ),
    "orchestrator": (
        "common", "config", "analysis", "data", "reporting", "planning", "tracking", "jobs", "evaluation",
        "training", "results", "execution", "diagnosis", "api", "run", "generate", "export", "report",
        "relocate", "doctor",
    ),
}  # fmt: skip
"""Who may import whom: a package or top-level module imports itself and those before it in the list, and
`orchestrator` also all of `workloads`."""
MODULES_IN_A_FOLDER = 12
ALIKE = ("workloads/objectives", "workloads/scorers")
"""Folders of like things: one module each, as many as there are."""
FILES = [path for wing in ("orchestrator", "workloads") for path in (REPOSITORY / wing).rglob("*.py")]


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def importers(package: str) -> set[str]:
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in FILES
        if any(name.split(".")[0] == package for name in imports(path))
    }


def test_workloads_know_nothing_of_the_cluster() -> None:
    for package in ("ray", "mlflow", "deepspeed", "orchestrator"):
        assert not any(name.startswith("workloads/") for name in importers(package)), package


def test_one_room_each_for_deepspeed_and_mlflow() -> None:
    assert importers("deepspeed") == {"orchestrator/training/deepspeed_engine.py"}
    assert all(name.startswith("orchestrator/tracking/") for name in importers("mlflow"))


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("execution.trainable", ("diffusers", "transformers", "mlflow", "matplotlib")),
        ("training.startup", ("diffusers", "transformers", "mlflow", "matplotlib")),
        ("data.shard_reader", ("torch", "mlflow")),
    ],
)
def test_what_every_trial_starts_processes_of_is_light(module: str, heavy: tuple[str, ...]) -> None:
    """Each of these is seconds in a process, and a trial starts several."""
    code = f"import sys, orchestrator.{module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=REPOSITORY, text=True) == "[]\n"


def test_imports_have_no_cycle() -> None:
    names = {
        path.relative_to(REPOSITORY)
        .with_suffix("")
        .as_posix()
        .replace("/", ".")
        .removesuffix(".__init__"): path
        for path in FILES
    }
    arrows = {name: imports(path) & set(names) - {name} for name, path in names.items()}
    # Importing a module runs its packages' __init__ too, but a package may import its own parts.
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for target in arrows[name]:
                visit(target, (*above, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_tests_mirror_the_packages() -> None:
    packages = [path.parent.relative_to(REPOSITORY) for path in FILES if path.name == "__init__.py"]
    top = [package for package in packages if len(package.parts) == 2]
    assert top
    assert not [p for p in top if not list((REPOSITORY / "tests" / p).glob("test_*.py"))]


PRIVATE = re.compile(r"ray(\.[a-z0-9]+)*\._(private|internal|raylet)|deepspeed\S*\._|mlflow(\.[a-z0-9]+)*\._")


def test_private_apis_have_one_module_per_library() -> None:
    found = {path.relative_to(REPOSITORY).as_posix() for path in FILES if PRIVATE.search(path.read_text())}
    assert found == {"orchestrator/common/ray_internals.py"}


@pytest.mark.parametrize("wing", ALLOWED)
def test_imports_follow_the_list(wing: str) -> None:
    order = {name: place for place, name in enumerate(ALLOWED[wing])}
    wrong = []
    for path in FILES:
        own = path.relative_to(REPOSITORY).with_suffix("").parts
        if own[0] != wing or own[1] == "__init__":
            continue
        for target in {tuple(name.split(".")) for name in imports(path)}:
            if target[0] == wing and len(target) > 1 and order[target[1]] > order[own[1]]:
                wrong.append(f"{'/'.join(own)} imports {'.'.join(target)}")
    assert not wrong


def test_no_folder_is_wide() -> None:
    modules = [path.parent.relative_to(REPOSITORY).as_posix() for path in FILES if path.stem != "__init__"]
    counts = {folder: modules.count(folder) for folder in modules if folder not in ALIKE}
    assert not {folder: count for folder, count in counts.items() if count > MODULES_IN_A_FOLDER}


def test_no_file_is_long() -> None:
    long = {path.name: lines for path in FILES if (lines := path.read_text().count("\n")) > 300}
    assert not long
