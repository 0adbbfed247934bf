"""Checks of the storage and of the disks: written, read back and deleted as a sweep would.

A local folder is left as it was. In a bucket pyarrow leaves the empty entry of the storage's folder, as every
sweep does.
"""

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from huggingface_hub.constants import HF_HUB_CACHE

from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, one_line, warn

CONTENT = os.urandom(1 << 20)
"""One MiB: a full disk takes a few bytes still."""
LITTLE = 10 * 2**30
"""Free bytes of a disk below which a sweep of published models soon stops."""
MOUNTED = ("fuse", "nfs", "cifs", "smb", "9p")
"""Beginnings of the types of file systems on which SQLite's locks are not to be relied on."""
REMEDIES = {
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist": "make the bucket, or correct its name",
    r"(?i)request_?time_?too_?skewed|time is too large": "set the clock (timedatectl set-ntp true)",
    r"ExpiredToken|EXPIRED_TOKEN|expired": "log in again: the session of these credentials has ended",
    r"InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH": (
        "correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ),
    r"ACCESS_DENIED|AccessDenied|Forbidden|403|401|denied by": (
        "give this account or login the rights to list, read, write and delete there"
    ),
    r"HTTP status 301|PermanentRedirect|wrong region": "set AWS_DEFAULT_REGION to the bucket's region",
    r"SSL|certificate": "give the proxy's or server's certificate (AWS_CA_BUNDLE, SSL_CERT_FILE)",
    r"NETWORK_CONNECTION|resolve|[Cc]onnect|timed? ?out": "check the network, the proxy and AWS_ENDPOINT_URL",
    r"No space left|quota|File too large": "make room, or choose another place with --storage",
    r"Read-only file system|Permission denied": "give --storage a folder that is yours",
    r"Not a directory|File exists": "a file is in the way: choose another place with --storage",
}
"""What to do about an error, by a pattern in its message; the first that fits counts."""


def check_storage(subject: Subject) -> Iterator[Finding]:
    """Write a file to the storage, read it back and delete it."""
    store, name = Store(subject.root), f".doctor-{uuid.uuid4().hex}"
    with _folders_as_before(store):
        steps: dict[str, Callable[[], object]] = {
            "written": lambda: store.write(name, CONTENT),
            "read": lambda: store.read(name),
            "listed": lambda: store.exists(name),
            "deleted": lambda: store.delete(name),
        }
        for done, step in steps.items():
            try:
                result = step()
            except OSError as error:
                yield fail(f"{store.root}: cannot be {done}: {remedied(error)}")
                return
            if (done == "read" and result != CONTENT) or (done == "listed" and not result):
                yield fail(
                    f"{store.root}: what was just written is not there: choose another place with --storage"
                )
                return
    yield ok(f"{store.root}: written, read and deleted")


@contextmanager
def _folders_as_before(store: Store) -> Iterator[None]:
    """Delete the folders of a local storage that are made in the block, while they are empty."""
    folder = local_folder(store)
    missing = [] if folder is None else [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    finally:
        for each in missing:
            try:
                each.rmdir()
            except OSError:
                break


def local_folder(store: Store) -> Path | None:
    """Return the folder of a local storage; None for a bucket."""
    return Path(store.root.removeprefix("file://")) if store.local else None


def remedied(error: BaseException) -> str:
    """Return the message of a storage's error, and what to do about it if that is known."""
    text = re.sub(r"^When [^:]*: (?=AWS Error)", "", one_line(error))
    remedy = next((remedy for pattern, remedy in REMEDIES.items() if re.search(pattern, text)), "")
    return f"{text}: {remedy}" if remedy else text


def check_disks(subject: Subject) -> Iterator[Finding]:
    """Check the free space of the storage, and of the hub's cache, and what SQLite stands on."""
    places = {"models from the hub": Path(HF_HUB_CACHE)}
    try:
        folder = local_folder(Store(subject.root))
    except UserError:
        folder = None  # the check of the storage says why
    if folder is not None:
        places = {"storage": folder, **places}
    for use, place in places.items():
        free = shutil.disk_usage(_existing(place)).free
        text = f"{use}: {free / 2**30:.0f} GiB free at {place}"
        yield (
            ok(text)
            if free >= LITTLE
            else warn(f"{text}: published models and checkpoints need more: make room")
        )
    if folder is not None and (kind := _file_system(_existing(folder))).startswith(MOUNTED):
        yield warn(
            f"storage: {folder} is a mount of type {kind}, on which MLflow's SQLite may fail or be lost: "
            f"give --tracking-uri, and a bucket as s3:// or gs:// instead of its mount"
        )


def _existing(path: Path) -> Path:
    """Return the nearest folder that exists, from `path` upwards."""
    return next(each for each in (path, *path.parents) if each.is_dir())


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, as `ext4`; empty if it is unknown."""
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    return next((mounts[each] for each in (path, *path.parents) if each in mounts), "")
