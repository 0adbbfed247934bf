"""Checks guard themselves, and leave nothing behind; only the world beyond this process is faked."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from orchestrator.config.sweep_file import load_sweep
from orchestrator.diagnosis.checks import Check, Finding, Level, Subject, examine
from orchestrator.diagnosis.gpus import check_driver
from orchestrator.diagnosis.hub import check_hub
from orchestrator.diagnosis.machine import check_open_files, check_temporary_folder
from orchestrator.diagnosis.places import check_storage, remedied
from orchestrator.diagnosis.services import check_clock, check_tracking
from orchestrator.planning.plan import make_plan
from tests.support.cli import MINIMAL, written


def broken(subject: Subject) -> Iterator[Finding]:
    raise RuntimeError("the disk\nis on fire")
    yield


def hanging(subject: Subject) -> Iterator[Finding]:
    time.sleep(30)
    yield Finding(Level.OK, "")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (f"{__name__}:broken", "could not be checked: RuntimeError: the disk is on fire"),
        ("no_such_library:check", "could not be checked: ModuleNotFoundError"),
        (f"{__name__}:hanging", "no answer in 0.2 s"),
    ],
)
def test_whatever_fails_becomes_one_line(function: str, text: str) -> None:
    (finding,) = examine(Check("x", function), Subject("results"), limit_s=0.2 if "hang" in function else 30)
    assert finding.level is Level.FAIL and finding.text.startswith(text) and "\n" not in finding.text


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    (finding,) = check_storage(Subject(str(tmp_path / "a/b")))
    assert finding.level is Level.OK and not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for it, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        (finding,) = check_storage(Subject(str(tmp_path)))
        right = finding.level is Level.FAIL and "make room" in finding.text and not list(tmp_path.iterdir())
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = check_storage(Subject(str(tmp_path / "file/x")))
    assert finding.level is Level.FAIL and "a file is in the way" in finding.text


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("AWS Error UNKNOWN (HTTP status 403): RequestTimeTooSkewed", "clock"),
        (
            "AWS Error EXPIRED_TOKEN during PutObject operation: The provided token has expired",
            "log in again",
        ),
        ("AWS Error ACCESS_DENIED during CreateMultipartUpload operation: Access Denied", "rights"),
        ("AWS Error NO_SUCH_BUCKET during PutObject: The specified bucket does not exist", "make the bucket"),
        ("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation", "region"),
    ],
)
def test_errors_of_buckets_have_remedies(message: str, remedy: str) -> None:
    assert remedy in remedied(OSError(message))


def test_a_missing_driver_fails_only_a_sweep_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    plan = make_plan(load_sweep(written(tmp_path, MINIMAL), ["resources.gpus_per_worker=1"]))
    assert next(check_driver(Subject("r"))).level is Level.WARN
    assert next(check_driver(Subject("r", plan=plan))).level is Level.FAIL
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert next(check_driver(Subject("r", plan=plan))).level is Level.OK


@pytest.mark.parametrize(
    ("script", "level", "text"),
    [
        ("echo 'NVIDIA L4, 535.104.05, 23034 MiB'", Level.FAIL, "needs driver 580 or newer"),
        ("echo 'NVIDIA L4, 580.65.06, 23034 MiB'", Level.OK, "580.65.06, 1 x NVIDIA L4 of 23034 MiB"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", Level.FAIL, "restart"),
    ],
)
def test_the_driver_against_torchs_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, level: Level, text: str
) -> None:
    import torch

    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (finding,) = check_driver(Subject("r"))
    assert finding.level is level and text in finding.text


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    (finding,) = check_temporary_folder(Subject("r"))
    assert finding.level is Level.FAIL and "too long for Ray's sockets" in finding.text


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    (finding,) = check_open_files(Subject("r"))
    assert finding.level is Level.WARN and "ulimit -n" in finding.text


class Answer(BaseHTTPRequestHandler):
    """A server of the outside world: a hub, by its answers' headers, and one whose clock is wrong."""

    def do_GET(self) -> None:
        gone, closed = "gone" in self.path, "closed" in self.path
        self.send_response(404 if gone else 403 if closed else 200)
        if gone or closed:
            self.send_header("X-Error-Code", "RepoNotFound" if gone else "GatedRepo")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() + 1200)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture()
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answer) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_licences_on_the_hub(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server)
    text = MINIMAL.replace("miniature/pixart}", "owner/open}\n  - {name: b, model: owner/gone}")
    text = text.replace("owner/gone}", "owner/gone}\n  - {name: c, model: owner/closed}")
    plan = make_plan(load_sweep(written(tmp_path, text), []))
    found = {finding.text.partition(":")[0]: finding for finding in check_hub(Subject("r", plan=plan))}
    assert found["owner/open"].level is Level.OK
    assert "deleted or renamed" in found["owner/gone"].text and found["owner/gone"].level is Level.FAIL
    assert "licence is not accepted" in found["owner/closed"].text


def test_a_clock_that_a_bucket_refuses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    (finding,) = check_clock(Subject("s3://bucket/x"))
    assert finding.level is Level.FAIL and "behind" in finding.text
    (finding,) = check_clock(Subject("results", tracking=server))
    assert finding.level is Level.WARN


def test_what_is_no_mlflow(server: str, tmp_path: Path) -> None:
    (finding,) = examine(
        Check("MLflow", f"{check_tracking.__module__}:check_tracking"), Subject(str(tmp_path), server)
    )
    assert finding.level is Level.FAIL or "unknown version" in finding.text
    assert sys.getdefaultencoding() and "\n" not in finding.text
