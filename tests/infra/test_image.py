"""The image: one set of versions in the lock, in pyproject, in the manifests and under these tests."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.manifests import OVERLAYS, REPOSITORY, pods, ray_spec, rendered

IMAGE = REPOSITORY / "infra/image"
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\$", re.MULTILINE)
GPU_ALONE = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch brings with CUDA and without it does not."""


def lock(name: str) -> dict[str, str]:
    return {
        canonicalize_name(key): version
        for key, version in ENTRY.findall((IMAGE / f"{name}.lock").read_text())
    }


def installed() -> dict[str, str]:
    """What the project needs, and all that this needs, as these tests run on it."""
    found: dict[str, str] = {}
    waiting = [("distillation-orchestrator", frozenset[str]())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version.partition("+")[0]
        for line in distribution.requires or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": each}) for each in (*extras, "")):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    del found["distillation-orchestrator"]
    return found


def differences(locked: dict[str, str], running: dict[str, str]) -> list[str]:
    """Of the two sets, with what only GPUs need left out."""
    names = sorted(name for name in {*locked, *running} if not GPU_ALONE.fullmatch(name))
    return [
        f"{name}: the lock has {locked.get(name)}, the tests run on {running.get(name)}"
        for name in names
        if locked.get(name) != running.get(name)
    ]


def test_the_lock_is_what_the_tests_run_on() -> None:
    assert differences(lock("training"), installed()) == [], (
        "infra/image/training.lock says how it is made anew"
    )


def test_a_version_that_differs_is_seen() -> None:
    running = installed()
    assert differences(lock("training") | {"numpy": "1.0"}, running) == [
        f"numpy: the lock has 1.0, the tests run on {running['numpy']}"
    ]
    assert differences(lock("training") | {"left-over": "1.0"}, running)
    assert differences(lock("training"), running | {"not-locked": "1.0"})


def test_the_lock_fits_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = lock("training")
    for line in (*project["dependencies"], *project["optional-dependencies"]["gpu"]):
        need = Requirement(line)
        assert need.specifier.contains(locked[canonicalize_name(need.name)]), line


@pytest.mark.parametrize("name", ["training", "tracking", "build"])
def test_every_entry_has_hashes(name: str) -> None:
    text = (IMAGE / f"{name}.lock").read_text()
    entries = [part for part in re.split(r"\n(?=\S)", text) if not part.startswith("#")]
    assert entries and all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_server_and_client_are_one_mlflow() -> None:
    both = ("mlflow", "mlflow-skinny", "mlflow-tracing")
    assert [lock("tracking")[name] for name in both] == [lock("training")[name] for name in both]


def test_the_tests_server_is_the_images() -> None:
    """Of the packages that both have: MLflow with its logins, Postgres's driver, the bucket's client."""
    running: dict[str, str] = {
        canonicalize_name(each.metadata["Name"]): each.version.partition("+")[0]
        for each in importlib.metadata.distributions()
    }
    locked = lock("tracking")
    both = locked.keys() & running.keys()
    assert both >= {"mlflow", "flask-wtf", "psycopg2-binary", "boto3", "sqlalchemy", "uvicorn"}
    assert {name: locked[name] for name in both} == {name: running[name] for name in both}


def test_what_builds_is_what_runs() -> None:
    assert lock("build")["setuptools"] == lock("training")["setuptools"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_ray_in_lock_manifest_and_here(overlay: str) -> None:
    import ray

    for part in ("cluster", "sweep"):
        assert (
            ray_spec(rendered(f"{overlay}/{part}"))["rayVersion"]
            == lock("training")["ray"]
            == ray.__version__
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_are_those_that_the_dockerfile_makes(overlay: str) -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    images = {
        c["image"]
        for part in ("tracking", "sweep")
        for pod in pods(rendered(f"{overlay}/{part}"))
        for c in pod.containers
    }
    own = {image.rpartition("/")[2] for image in images if "/distillation/" in image}
    assert own == {f"training:{version}", f"tracking:{version}"}


NEEDED = {
    "LD_LIBRARY_PATH=/usr/local/nvidia/lib64": "torch does not find the driver on GKE",
    "g++": "torch.compile has no compiler for CPUs",
    "ENV ORCHESTRATOR_GIT_REVISION=$GIT_REVISION": "runs do not say of which code they are",
    "RAY_USAGE_STATS_ENABLED=0": "Ray reports how it is used",
    "MLFLOW_DISABLE_TELEMETRY=true": "MLflow reports how it is used",
}
"""Words of the Dockerfile, and what happens without them."""
LAYERS = (" gcc g++ ", "/opt/large/nvidia", "/opt/large/torch", "--from=parts /opt/venv", "--from=project")
"""Of the training image, from what never changes to what changes with each commit."""


def dockerfile_errors(text: str) -> list[str]:
    """What the Dockerfile's linter does not ask for."""
    stages = re.split(r"^FROM ", re.sub(r"\\\n", " ", text), flags=re.MULTILINE)[1:]
    names = {stage.split()[2] for stage in stages}
    errors = [
        f"base {stage.split()[0]}: give its full version or digest"
        for stage in stages
        if stage.split()[0] not in names and not re.search(r":\d+\.\d+\.\d+|@sha256:", stage.split()[0])
    ]
    for stage in stages:
        if stage.split()[2] in ("training", "tracking") and not re.search(
            r"^USER [1-9]\d*$", stage, re.MULTILINE
        ):
            errors.append(f"{stage.split()[2]} runs as root: end with USER 1000")
    errors += [line for words, line in NEEDED.items() if words not in text]
    last = stages[-2].splitlines()
    order = [next((i for i, line in enumerate(last) if words in line), -1) for words in LAYERS]
    if -1 in order or order != sorted(order):
        errors.append("a change of the code makes every layer anew: it comes after the packages")
    for install in re.findall(r"pip install [^&\n]*", text.replace("\\\n", " ")):
        if "--no-deps" not in install or not (
            "--require-hashes" in install or install.rstrip().endswith(" /src")
        ):
            errors.append(
                f"{install}: --no-deps and --require-hashes, so that nothing comes but what is locked"
            )
    return errors


def test_the_dockerfile_holds_to_the_rules() -> None:
    assert dockerfile_errors((IMAGE / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("python:3.11.15-slim-bookworm", "python:3.11", "base python:3.11: give"),
        ("USER 1000", "USER root", "training runs as root"),
        ("USER 1000", "", "tracking runs as root"),
        ("--require-hashes ", "", "so that nothing comes but"),
        ("--no-deps ", "", "so that nothing comes but"),
        ("LD_LIBRARY_PATH=/usr/local/nvidia/lib64", "", "does not find the driver"),
        ("gcc g++ ", "gcc ", "no compiler for CPUs"),
        ("ENV ORCHESTRATOR_GIT_REVISION=$GIT_REVISION", "", "of which code"),
        ("RAY_USAGE_STATS_ENABLED=0", "", "Ray reports"),
        ("MLFLOW_DISABLE_TELEMETRY=true", "", "MLflow reports"),
        ("COPY --from=parts /opt/large/torch", "#", "makes every layer anew"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule_is_seen(old: str, new: str, words: str) -> None:
    text = (IMAGE / "Dockerfile").read_text()
    assert old in text
    assert any(words in error for error in dockerfile_errors(text.replace(old, new)))


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    command = shutil.which("hadolint") or Path(sys.executable).parent / "hadolint"
    return subprocess.run(
        [command, "--failure-threshold", "warning", "--no-color", path], capture_output=True, text=True
    )


def test_the_linter_has_nothing_to_say(tmp_path: Path) -> None:
    done = hadolint(IMAGE / "Dockerfile")
    assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN apt-get install gcc\n")
    assert "DL3007" in hadolint(tmp_path / "Dockerfile").stdout


def test_the_image_is_of_the_tests_python() -> None:
    """Of its minor version: wheels and locks are made for one."""
    base = re.search(r"python:(\d+\.\d+)\.\d+", (IMAGE / "Dockerfile").read_text())
    assert base and base[1] in (IMAGE / "training.lock").read_text().split("--python-version ", 1)[1][:5]
