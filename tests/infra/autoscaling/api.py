"""A Kubernetes API server of four routes, over HTTPS: what Ray's autoscaler asks of it, and no more.

    GET, PATCH /apis/ray.io/v1/namespaces/NAMESPACE/rayclusters/NAME
    GET        /api/v1/namespaces/NAMESPACE/pods, and pods/NAME

A client shows a certificate; one certificate is everybody's here.
"""

import json
import ssl
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from tests.infra.manifests import Json, Manifest


class Objects(Protocol):
    """What the server serves."""

    def ray_cluster(self) -> Manifest: ...

    def patch(self, operations: list[Manifest]) -> Manifest:
        """Raises KeyError or IndexError for a place that is not there."""

    def pods(self) -> Manifest: ...


class Server:
    """Serves `objects` at loopback until `end`."""

    def __init__(self, objects: Objects, namespace: str, name: str, folder: Path) -> None:
        self._certificate, self._key = _certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificate, self._key)
        context.load_verify_locations(self._certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(objects, namespace, name))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """By which a process in a pod finds it; Kubernetes and KubeRay set these, or files for them."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self._server.server_port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self._server.server_port),
            "KUBERAY_CRD_VER": "v1",
            "RAY_KUBERAY_CA_CERT_PATH": str(self._certificate),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(self._certificate),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(self._key),
        }

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def apply(document: Json, operation: Manifest) -> None:
    """One operation of a JSON patch, in place; the autoscaler's are all "replace"."""
    assert operation["op"] == "replace", operation
    *above, last = operation["path"].strip("/").split("/")
    node = document
    for key in above:
        node = node[int(key)] if isinstance(node, list) else node[key]
    if last not in node:
        raise KeyError(operation["path"])
    node[last] = operation["value"]


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "api.crt", folder / "api.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=api"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def _handler(objects: Objects, namespace: str, name: str) -> type[BaseHTTPRequestHandler]:
    cluster = f"/apis/ray.io/v1/namespaces/{namespace}/rayclusters/{name}"
    pods = f"/api/v1/namespaces/{namespace}/pods"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path == cluster:
                self._answer(200, objects.ray_cluster())
            elif path == pods:
                self._answer(200, objects.pods())
            else:
                found = [
                    pod for pod in objects.pods()["items"] if path == f"{pods}/{pod['metadata']['name']}"
                ]
                self._answer(200, found[0]) if found else self._answer(404, {"reason": "NotFound"})

        def do_PATCH(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                assert self.path == cluster and self.headers["Content-type"] == "application/json-patch+json"
                self._answer(200, objects.patch(body))
            except (AssertionError, KeyError, IndexError) as error:
                self._answer(422, {"reason": "Invalid", "message": repr(error)})

        def _answer(self, status: int, body: Manifest) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *about: Any) -> None:
            pass

    return Handler
