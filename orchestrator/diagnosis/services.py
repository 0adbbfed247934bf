"""Checks of MLflow, and of this machine's clock against the servers that a sweep speaks to."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from orchestrator.common.storage import Store
from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, warn

NOTICED_S, REFUSED_S = 60, 900
"""Seconds by which a clock may differ: from the first on logins and records suffer, from the second on a
bucket refuses every request."""
PROVIDERS = {"s3": "https://s3.amazonaws.com", "gs": "https://storage.googleapis.com"}
SECONDS = 10


def check_tracking(subject: Subject) -> Iterator[Finding]:
    """Ask MLflow for its experiments, as the sweep's login."""
    from orchestrator.tracking.server import probe, tracking_uri

    uri = tracking_uri(subject.tracking, Store(subject.root))
    yield ok(probe(uri, subject.plan.sweep.name if subject.plan else "sweep"))


def check_clock(subject: Subject) -> Iterator[Finding]:
    """Compare the clock with the Date header of MLflow's server or of the bucket's."""
    for server in _servers(subject):
        seconds = _seconds_ahead(server)
        if seconds is None:
            continue
        text = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {server}"
        if abs(seconds) < NOTICED_S:
            yield ok(text)
        elif abs(seconds) < REFUSED_S or "://" not in subject.root:
            yield warn(f"{text}: set it (timedatectl set-ntp true): logins and curves go by it")
        else:
            yield fail(f"{text}: the bucket refuses requests: set it (timedatectl set-ntp true)")
        return
    yield ok("not compared: there is no server of MLflow or of a bucket that answers")


def _servers(subject: Subject) -> Iterator[str]:
    """Yield the addresses of MLflow's server and of the bucket's, without credentials."""
    tracking = subject.tracking or os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith("http"):
        parts = urlsplit(tracking)
        yield f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    scheme, _, rest = subject.root.partition("://")
    if scheme == "s3":
        yield os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or PROVIDERS["s3"]
    elif scheme in PROVIDERS:
        yield PROVIDERS[scheme]
    elif scheme.startswith("abfs"):
        yield f"https://{rest.partition('/')[0].rpartition('@')[2]}"


def _seconds_ahead(server: str) -> float | None:
    """Return by how much this machine's clock is ahead of a server's; None if the server does not tell."""
    request = urllib.request.Request(server, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            date = answer.headers["Date"]
    except urllib.error.HTTPError as error:
        date = error.headers["Date"]
    except (OSError, ValueError):
        return None
    return time.time() - parsedate_to_datetime(date).timestamp() if date else None
