"""A real Postgres of one's own, to be stopped and started."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

USER = "postgres"
"""Of the machine: Postgres refuses to run as root."""


def programs() -> Path:
    """Where Debian keeps the server's programs, of its newest version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    assert found, (
        "Postgres is not installed, and the tracking stack cannot be tested without it: "
        "apt-get install postgresql (Debian's own, 15 or newer); its service need not run"
    )
    return found[-1].parent


class Postgres:
    """One server on loopback, with a superuser of the given name and password."""

    def __init__(self, port: int, superuser: str, password: str) -> None:
        self.port = port
        self._superuser, self._password, self._programs = superuser, password, programs()
        # Not below pytest's folder, which only root may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        secret = self._folder / "password"
        secret.write_text(password)
        if os.geteuid() == 0:
            for path in (self._folder, secret):
                shutil.chown(path, USER)
        # Not --no-sync: the server is stopped, and what it holds then must be on the disk as in earnest.
        words = ["-U", superuser, f"--pwfile={secret}", "-A", "scram-sha-256", "-E", "UTF8"]
        self._run("initdb", "-D", str(self._folder / "data"), *words)

    def start(self) -> None:
        """Starts it, and waits until it takes connections."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        self._control("start", "-l", str(self._folder / "log"), "-o", settings)

    def stop(self) -> None:
        """Connections are cut, as when its pod is moved."""
        self._control("stop", "-m", "fast")

    def execute(self, sql: str, database: str = "postgres") -> str:
        """What `psql` prints: rows alone."""
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", self._superuser, "-d", database]
        environment = {**os.environ, "PGPASSWORD": self._password}
        command += ["-v", "ON_ERROR_STOP=1", "-At", "-c", sql]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", *words)

    def _run(self, program: str, *words: str) -> None:
        other = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
        command = [*other, str(self._programs / program), *words]
        # A file, since the server would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=self._folder)
            output.seek(0)
            assert done.returncode == 0, f"{program}: {output.read()}"
