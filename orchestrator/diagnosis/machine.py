"""Checks of the machine: processors, memory, shared memory, temporary folder, open files.

Limits of the container count, not what the host has.
"""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from orchestrator.diagnosis.checks import Finding, Subject, fail, ok, warn
from orchestrator.planning.estimate import gib, worker_needs

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
STORE_SHARE, LARGEST_STORE = 0.3, 200e9
"""Share of the available memory that Ray takes for its object store, and the most that it takes, in bytes."""
SOCKET = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""The longest path that Ray makes below its temporary folder."""
LONGEST_SOCKET = 107
"""Bytes of the path of a Unix socket."""
FEWEST_FILES = 4096
"""Open files below which Ray warns of connections that fail."""
FULL = 0.95
"""Share of a disk from which Ray refuses to write to it."""
RAY_BYTES = 2 * GIB
"""Memory of Ray's own processes and of the driver: a rough figure."""


def check_processors(subject: Subject) -> Iterator[Finding]:
    """Compare the processors of this machine with those that one trial asks Ray for."""
    have, plan = processors(), subject.plan
    if plan is None or subject.on_cluster:
        yield ok(
            f"{have:g} CPUs here" + (", and the sweep runs on the cluster" if subject.on_cluster else "")
        )
    elif plan.cpus_per_trial > have:
        yield fail(
            f"{have:g} CPUs, and a trial asks for {plan.cpus_per_trial:g}: "
            f"lower resources.workers or resources.cpus_per_worker"
        )
    else:
        yield ok(f"{have:g} CPUs, and a trial asks for {plan.cpus_per_trial:g}")


def processors() -> float:
    """Return the CPUs that this process may use, by its affinity and its container's quota."""
    have = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _first_line(CGROUP / "cpu.max").partition(" ")
    return min(have, int(quota) / int(period)) if quota.isdecimal() else have


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Compare the available memory with what one trial's workers need, if they train on CPUs."""
    free, plan = available_memory(), subject.plan
    text = f"{free / GIB:.1f} GiB available"
    needs = 0
    if plan is not None and not subject.on_cluster and not plan.gpus_per_trial:
        each = [found.bytes for trial in plan.trials if (found := worker_needs(plan, trial))]
        needs = max(each, default=0) * plan.sweep.resources.workers
    if needs > free:
        yield fail(
            f"{text}, and a trial needs {gib(needs)} GiB: lower train.batch_size, or close other programs"
        )
    elif free < needs + RAY_BYTES:
        yield warn(f"{text}, and Ray needs about {gib(RAY_BYTES)} GiB beside the trial: close other programs")
    else:
        yield ok(text)


def available_memory() -> int:
    """Return the bytes that are free for programs on this machine, or in its container."""
    limit, used = _first_line(CGROUP / "memory.max"), _first_line(CGROUP / "memory.current")
    free = psutil.virtual_memory().available
    return min(free, int(limit) - int(used)) if limit.isdecimal() and used.isdecimal() else free


def check_shared_memory(subject: Subject) -> Iterator[Finding]:
    """Compare /dev/shm with the object store that Ray would put there."""
    if not SHARED_MEMORY.is_dir():
        yield ok("this system has no /dev/shm")
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    store = min(STORE_SHARE * available_memory(), LARGEST_STORE)
    text = f"{free / GIB:.1f} GiB in {SHARED_MEMORY}"
    if subject.on_cluster or free >= store:
        yield ok(text)
    else:
        yield warn(
            f"{text}, and Ray's object store takes up to {store / GIB:.1f} GiB: Ray puts it on disk, which "
            f"is slow: give the container more (docker run --shm-size={store * 1.1 / GIB:.0f}g; Kubernetes: "
            f"an emptyDir of medium Memory)"
        )


def check_temporary_folder(subject: Subject) -> Iterator[Finding]:
    """Check that Ray's sockets fit below the temporary folder, that it is writable, and its free space."""
    folder = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")
    length = len(os.fsencode(folder / SOCKET))
    if length > LONGEST_SOCKET:
        yield fail(
            f"{folder}: is {length - LONGEST_SOCKET} characters too long for Ray's sockets: "
            f"set RAY_TMPDIR to a shorter path, such as /tmp"
        )
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield fail(f"{folder}: cannot be written: {error.strerror}: set TMPDIR to a folder that can")
        return
    usage = shutil.disk_usage(folder)
    if usage.free < (1 - FULL) * usage.total:
        yield warn(f"{folder}: the disk is over {FULL:.0%} full, and Ray refuses to write there: make room")
    else:
        yield ok(f"{folder}: {usage.free / GIB:.0f} GiB free")


def check_open_files(subject: Subject) -> Iterator[Finding]:
    """Check the hard limit of open files, up to which Ray raises the soft one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FEWEST_FILES:
        yield warn(f"at most {hard}, and Ray wants {FEWEST_FILES}: raise it with `ulimit -n {FEWEST_FILES}`")
    else:
        yield ok("no limit" if hard == resource.RLIM_INFINITY else f"up to {hard}")


def _first_line(path: Path) -> str:
    try:
        return path.read_text().strip().partition("\n")[0]
    except OSError:
        return ""
