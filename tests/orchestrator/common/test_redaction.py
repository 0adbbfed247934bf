"""A planted password appears nowhere, and is not sent to workers."""

import base64
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from orchestrator.common.errors import UserError
from orchestrator.common.redaction import VARIABLES, redact, redact_json, refuse_credentials
from orchestrator.common.storage import Store
from orchestrator.config.sweep_file import load_sweep
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.data.prompt_files import list_files
from orchestrator.execution import launch
from orchestrator.execution.preparation import Shared
from orchestrator.planning.backbone_checks import check_backbones
from orchestrator.planning.capacity import Capacity, NodeGroup
from orchestrator.planning.plan import make_plan
from orchestrator.run import main
from orchestrator.tracking.client import Tracker

PLANTED = "PLANTED"
REPOSITORY = Path(__file__).parents[3]
REFUSED = {
    "postgresql://me:PLANTED@db:5432/mlflow": "postgresql://***@db:5432/mlflow",
    "postgresql+psycopg2://me:PLANTED/@:?#&'\"PLANTED@db/m": "postgresql+psycopg2://***@db/m",
    "mysql://me:PLAN%40TED@db/m": "mysql://***@db/m",
    "http://:PLANTED@host": "http://***@host",
    "s3://AKIA:PLANTED/a+b=@bucket/p?region=eu": "s3://***@bucket/p?region=eu",
    "s3://bucket/p?region=eu&secret_key=PLANTED": "s3://bucket/p?region=eu&secret_key=***",
    "s3://b?access_key=PLANTED&session_token=PLANTED": "s3://b?access_key=***&session_token=***",
    "https://a.blob.core.windows.net/c?sv=1&sig=PLANTED%3D&se=2": (
        "https://a.blob.core.windows.net/c?sv=1&sig=***&se=2"
    ),
    "abfss://container:PLANTED@account/p": "abfss://***@account/p",
    "https://h/b?X-Amz-Credential=PLANTED&X-Amz-Signature=PLANTED": (
        "https://h/b?X-Amz-Credential=***&X-Amz-Signature=***"
    ),
    "gs://bucket/p?json_credentials=PLANTED": "gs://bucket/p?json_credentials=***",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme;PWD%3DPLANTED": "mssql+pyodbc:///?odbc_connect=***",
    "postgresql://db/m?user=me&password=PLANTED": "postgresql://db/m?user=me&password=***",
}
HARMLESS = (
    "sqlite:////home/me/results/mlflow.db",
    "http://127.0.0.1:5000/#/experiments/1/runs",
    "s3://bucket/prefix?region=eu-west-1&endpoint_override=http%3A%2F%2Fminio",
    "abfss://container@account.dfs.core.windows.net/p?credential_kind=default",
    "gs://bucket/me@example.org",
    "models:/miniature-pixart@champion",
)


@pytest.mark.parametrize(("uri", "shown"), REFUSED.items(), ids=range(len(REFUSED)))
def test_credentials_in_a_uri(uri: str, shown: str) -> None:
    assert redact(uri) == shown
    text = redact(f"could not reach {uri} after 3 attempts")
    assert text == f"could not reach {shown} after 3 attempts"
    with pytest.raises(
        UserError, match=r"^storage .*\*\*\*.*: contains credentials.*AWS_ACCESS_KEY_ID"
    ) as told:
        refuse_credentials("storage", uri)
    assert "PLAN" not in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize("uri", HARMLESS)
def test_harmless_uris_stay_as_they_are(uri: str) -> None:
    refuse_credentials("storage", uri)
    assert redact(f"see {uri} or so") == f"see {uri} or so"


def test_a_local_folder_may_be_called_anything() -> None:
    refuse_credentials("storage", "results/a?token=b")


def test_tokens_and_dsns_are_hidden() -> None:
    assert redact("https://PLANTED@host/x") == "https://***@host/x"
    assert redact("host=db password=PLANTED dbname=m") == "host=db password=*** dbname=m"
    assert redact("max_new_tokens=77, tokens=77") == "max_new_tokens=77, tokens=77"


@pytest.mark.parametrize("name", VARIABLES)
def test_values_of_the_tools_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "PLANTED+/=")
    assert redact("refused PLANTED+/= again") == "refused *** again"
    monkeypatch.setenv(name, "")
    assert redact("refused") == "refused"


def test_structures() -> None:
    kept = {"trials": 2, "tracking": {"uri": "http://me:PLANTED@h"}, "notes": [("://:PLANTED@h", None)]}
    shown = {"trials": 2, "tracking": {"uri": "http://***@h"}, "notes": [["://***@h", None]]}
    assert redact_json(kept) == shown


def test_a_report_with_pictures_takes_no_time() -> None:
    picture = base64.b64encode(random.Random(0).randbytes(4_000_000)).decode()
    page = f'<svg xmlns="http://www.w3.org/2000/svg"> {picture} {"a" * 4_000_000}'
    started = time.process_time()
    assert redact(page) == page
    assert time.process_time() - started < 10


@pytest.mark.parametrize("opens", [Store, list_files])
def test_storage_and_prompts_are_refused_before_they_are_opened(opens: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="contains credentials"):
        opens("s3://AKIA:PLANTED@bucket/p")


@pytest.mark.parametrize("setting", ["backbones.0.model", "train.start_from"])
def test_backbones_are_refused(setting: str) -> None:
    override = f"{setting}=s3://AKIA:PLANTED@bucket/p"
    plan = make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml", [override]))
    with pytest.raises(UserError, match="contains credentials"):
        check_backbones(plan)


@pytest.mark.parametrize(
    "uri", ["http://user:PLANTED@127.0.0.1:1", "postgresql://user:PLANTED@127.0.0.1:1/db"]
)
def test_tracking_errors_hide_the_password(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(launch, "connected", nullcontext)
    monkeypatch.setattr(launch, "connected_capacity", lambda: Capacity([NodeGroup("here", 2, 0, 1, {})]))
    command = [str(REPOSITORY / "sweeps/miniature.yaml"), "--storage", str(tmp_path), "--tracking-uri", uri]
    assert main([*command, "--plan"]) == 0
    assert main(command) == 2
    told = capfd.readouterr()
    assert "***@127.0.0.1:1" in told.out and "***@127.0.0.1:1" in told.err
    assert len(told.err.splitlines()) == 1
    assert PLANTED not in told.out + told.err
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        assert PLANTED.encode() not in file.read_bytes()


def test_uncaught_errors_hide_secrets() -> None:
    code = (
        "from orchestrator import run\n"
        "def broken(options): raise RuntimeError('no answer from http://user:PLANTED@host')\n"
        "run._run = broken\n"
        "run.main(['sweep.yaml'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "RuntimeError: no answer from http://***@host" and PLANTED not in done.stderr


def test_the_parent_run_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://user:PLANTED@db/m"
    monkeypatch.setattr(sys, "argv", ["orchestrator.run", "sweep.yaml", "--tracking-uri", uri])
    plan = make_plan(load_sweep(REPOSITORY / "sweeps/miniature.yaml", [f"tracking.uri={uri}"]))
    store = Store(str(tmp_path))
    tracker = Tracker(f"sqlite:///{tmp_path}/mlflow.db", "planted", store)
    prompts = PromptSet("miniature:8", "digest", "prompts/x", (8,), 8, 0)
    shared = Shared(prompts, {}, {}, {})
    monkeypatch.setattr(launch, "prepare", lambda *given: shared)
    launch._Launch(plan, store, tracker, Capacity(()))._start_parent_run()
    tracker.log_text(tracker.parent, f"RuntimeError: {uri}", "error.txt")
    tracker.close("FINISHED")
    files = {file.name: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"mlflow.db", "sweep.json", "command.txt", "error.txt"} <= set(files)
    assert b"postgresql://***@db/m" in files["command.txt"]
    assert not [name for name, content in files.items() if PLANTED.encode() in content]
