"""A server that answers as the Hugging Face hub does when files are committed to a new repository."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Hub:
    """What the server was sent."""

    address: str = ""
    token: str = "hf_of_a_writer"
    """The only token that may write."""
    repositories: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    """Files of all commits, by REPOSITORY/PATH."""


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"siblings": [], "id": "x", "sha": "0" * 40})

        def do_POST(self) -> None:
            body = self._body()
            if self.headers.get("authorization") != f"Bearer {hub.token}":
                self._answer(
                    403, {"error": "You don't have the rights to create a model under this namespace"}
                )
            elif self.path == "/api/repos/create":
                content = json.loads(body)
                name = f"{content['organization']}/{content['name']}"
                hub.repositories.add(name)
                self._answer(200, {"url": f"{hub.address}/{name}", "name": name})
            elif "/preupload/" in self.path:
                files = [
                    {**each, "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                self._answer(200, {"files": files})
            elif "/commit/" in self.path:
                name = "/".join(self.path.split("/")[3:5])
                self._commit(name, body)
                url = f"{hub.address}/{name}/commit/{'0' * 40}"
                self._answer(200, {"commitUrl": url, "commitOid": "0" * 40, "success": True})
            else:
                self._answer(200, {})

        def _commit(self, name: str, body: bytes) -> None:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    hub.files[f"{name}/{entry['value']['path']}"] = content

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    return Handler
