"""MLflow, its database and its bucket, as a manifest has them, on this machine.

Arguments, environment and configuration of the server are those of the rendered manifest; only hosts,
ports and secrets are this machine's. So what is wrong there fails here.
"""

import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cached_property
from os import environ
from pathlib import Path

import boto3
import psutil

from tests.infra.manifests import REPOSITORY, Manifest, pods, rendered
from tests.infra.tracking.postgres import Postgres

SERVICES = {"mlflow": 5000, "postgres": 5432, "object-store": 8333}
"""Their ports inside the cluster."""
BUCKET = "distillation"
START_SECONDS = 300.0


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def container(manifests: list[Manifest], name: str) -> Manifest:
    """The one container of this name in any pod of the manifests."""
    (found,) = [each for pod in pods(manifests) for each in pod.containers if each["name"] == name]
    return found


class Stack:
    """The overlay's tracking, started by `start`, stopped by `remove`."""

    def __init__(self, folder: Path, overlay: str = "single") -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in SERVICES}
        self.uri = f"http://127.0.0.1:{self.ports['mlflow']}"
        self.s3 = f"http://127.0.0.1:{self.ports['object-store']}"
        self.secrets = {
            "tracking": {
                key: secrets.token_hex(24)
                for key in ("postgres-password", "admin-password", "flask-secret-key")
            },
            "mlflow-client": {"username": "sweeps", "password": secrets.token_hex(24)},
            "object-store": {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(24)},
        }
        self._manifests = rendered(f"{overlay}/tracking")
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """All three; answers when MLflow does."""
        self._start_bucket()
        self._start_database()
        self._write_config()
        serve = container(self._manifests, "mlflow")
        for name in ("migrate", "migrate-logins"):
            spec = container(self._manifests, name)
            done = self._process(self._mlflow(spec), self.environment(spec), name).wait(START_SECONDS)
            assert done == 0, self.log(name).read_text()
        self._server = self._process(self._mlflow(serve), self.environment(serve), "mlflow")
        wait_for(f"{self.uri}{serve['startupProbe']['httpGet']['path']}", self._server, self.log("mlflow"))

    def remove(self) -> None:
        """Ends all that was started, and the database's files."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(30)
        self.postgres.remove()

    @cached_property
    def postgres(self) -> Postgres:
        spec = container(self._manifests, "postgres")
        names = self.environment(spec)
        return Postgres(self.ports["postgres"], names["POSTGRES_USER"], names["POSTGRES_PASSWORD"])

    def environment(self, spec: Manifest) -> dict[str, str]:
        """A container's environment, with this machine's addresses and secrets."""
        found: dict[str, str] = {}
        for source in spec.get("envFrom", []):
            found |= self.secrets[source["secretRef"]["name"]]
        for entry in spec.get("env", []):
            secret = entry.get("valueFrom", {}).get("secretKeyRef", {})
            if secret.get("optional") and secret["name"] not in self.secrets:
                continue
            found[entry["name"]] = self._value(entry)
        return {key: self.here(value) for key, value in found.items()}

    def here(self, text: str) -> str:
        """`text` with the services' addresses on this machine."""
        for name, port in SERVICES.items():
            text = re.sub(rf"(?<=[/@]){name}:{port}\b", f"127.0.0.1:{self.ports[name]}", text)
        # Hosts that the server knows itself by.
        return text.replace(f":{SERVICES['mlflow']}", f":{self.ports['mlflow']}")

    def cpu_seconds(self) -> float:
        """Of a core, that MLflow's processes have used until now."""
        server = psutil.Process(self._server.pid)
        used = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(each.user + each.system for each in used)

    def back_up(self) -> None:
        """What the nightly job does, its two containers one after the other."""
        for name, text in self._config_map("mlflow-backup").items():
            (self.folder / name).write_text(text)
        places = {"/backup/": f"{self.folder}/", "/script/": f"{self.folder}/"}
        places["--host postgres"] = f"--host 127.0.0.1 --port {self.ports['postgres']}"
        for name in ("dump", "upload"):
            spec = container(self._manifests, name)
            words = [sys.executable if word == "python" else word for word in spec["command"]]
            for there, here in places.items():
                words = [word.replace(there, here) for word in words]
            done = self._process(words, self.environment(spec), name).wait(START_SECONDS)
            assert done == 0, self.log(name).read_text()

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def objects(self) -> dict[str, int]:
        """Bytes of each object in the bucket."""
        keys = self.secrets["object-store"]
        client = boto3.client(
            "s3", endpoint_url=self.s3, region_name="us-east-1",
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"], aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}

    def _value(self, entry: Manifest) -> str:
        if "value" in entry:
            return str(entry["value"])
        ((kind, reference),) = entry["valueFrom"].items()
        if kind == "secretKeyRef":
            return self.secrets[reference["name"]][reference["key"]]
        return self._config_map(reference["name"])[reference["key"]]

    def _config_map(self, name: str) -> Mapping[str, str]:
        (data,) = [
            dict(each["data"])
            for each in self._manifests
            if each["kind"] == "ConfigMap" and re.fullmatch(rf"{name}(-\w{{10}})?", each["metadata"]["name"])
        ]
        return data

    def _mlflow(self, spec: Manifest) -> list[str]:
        """The image's entry point with the container's arguments."""
        words = [self.here(word) for word in spec["args"]]
        for flag, value in (("--host", "127.0.0.1"), ("--port", str(self.ports["mlflow"]))):
            if flag in words:
                words[words.index(flag) + 1] = value
        return [sys.executable, *spec.get("command", ["python", "-m", "mlflow"])[1:], *words]

    def _write_config(self) -> None:
        """The mounted files, and where they are here."""
        for name, text in self._config_map("mlflow-auth").items():
            (self.folder / name).write_text(self.here(text))

    def _start_bucket(self) -> None:
        command = [
            sys.executable,
            "-m",
            "moto.server",
            "-H",
            "127.0.0.1",
            "-p",
            str(self.ports["object-store"]),
        ]
        wait_for(self.s3, self._process(command, {}, "object-store"), self.log("object-store"))
        request = urllib.request.Request(f"{self.s3}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def _start_database(self) -> None:
        """What the image of Postgres does at its first start."""
        self.postgres.start()
        wanted = self.environment(container(self._manifests, "postgres"))["POSTGRES_DB"]
        for sql in (f"CREATE DATABASE {wanted}", *self._config_map("postgres-first-start").values()):
            self.postgres.execute(sql)

    def _process(self, command: list[str], own: Mapping[str, str], name: str) -> "subprocess.Popen[bytes]":
        """A process with what a container has: its own environment, and a PATH."""
        mounted = {key: self._mounted(value) for key, value in own.items()}
        bare = {"PATH": environ["PATH"], "PYTHONUNBUFFERED": "1", **mounted, "HOME": str(self.folder)}
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(command, env=bare, stdout=log, stderr=log, cwd=self.folder)
        self._processes.append(process)
        return process

    def _mounted(self, value: str) -> str:
        return re.sub(r"^/etc/mlflow", str(self.folder), value)


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path, refused: bool = False) -> None:
    """Until there is a good answer, or, if `refused`, any."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            if refused:
                return
            raise AssertionError(f"{url}: {error}: {log.read_text()}") from None
        except OSError:
            assert process.poll() is None, f"ended with {process.returncode}: {log.read_text()}"
            assert time.monotonic() < deadline, f"{url}: no answer in {START_SECONDS:g} s: {log.read_text()}"
            time.sleep(0.2)


def make_login(stack: Stack) -> None:
    """What infra/README.md has a person type for it, with a kubectl that knows Secrets alone."""
    cases = "\n".join(
        f'*"get secret {name} -o jsonpath={{.data.{key}}}") printf %s {shlex.quote(value)} | base64 ;;'
        for name, values in stack.secrets.items()
        for key, value in values.items()
    )
    kubectl = f'kubectl() {{ case "$*" in\n{cases}\n*port-forward*) ;;\n*) return 1 ;; esac; }}'
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "infra/README.md").read_text(), re.DOTALL)
    (commands,) = [block for block in blocks if "users/create" in block]
    script = f"{kubectl}\n{commands}".replace(f"http://localhost:{SERVICES['mlflow']}", stack.uri)
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True)
    assert done.returncode == 0 and '"is_admin":false' in done.stdout, done.stdout + done.stderr
