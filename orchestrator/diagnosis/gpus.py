"""Checks of the GPU driver and of what torch sees of it.

Without a GPU that is asked for, one that is missing is a warning; with one, a failure.
"""

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

from orchestrator.config.gpu_specs import GPUS
from orchestrator.diagnosis.checks import Finding, Level, Subject, fail, ok, one_line, warn

QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
OLDEST_DRIVER = {12: 525, 13: 580}
"""Least driver of each major version of CUDA (NVIDIA's compatibility guide)."""
SMALLER = 0.95
"""Share of the memory of `resources.gpu` that a GPU of that kind shows at least."""
FREE = 0.9
"""Share of a GPU's memory that is free if nobody else uses it."""


def check_driver(subject: Subject) -> Iterator[Finding]:
    """Ask the driver for its GPUs and its version, and compare that with the CUDA that torch is built for."""
    if shutil.which(QUERY[0]) is None:
        yield _without_driver(subject)
        return
    done = subprocess.run(QUERY, capture_output=True, text=True, timeout=30)
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if "," in line]
    if done.returncode or not rows:
        reason = " ".join((done.stderr + done.stdout).split())[:200] or f"exit status {done.returncode}"
        yield fail(
            f"nvidia-smi fails: {reason}: after an update of the driver restart the machine; "
            f"in a container use NVIDIA's runtime (docker run --gpus all, runtimeClassName: nvidia)"
        )
        return
    yield _driver(rows)


def _without_driver(subject: Subject) -> Finding:
    text = "nvidia-smi is not found"
    if KERNEL_DRIVER.exists():
        return warn(f"{text}, though the kernel has a driver: the container lacks its tools; see CUDA below")
    if subject.gpus:
        return fail(
            f"{text}, and the sweep asks for GPUs: install the driver, or set resources.gpus_per_worker=0"
        )
    if subject.on_cluster:
        return ok(f"{text}: GPUs are on the cluster's other nodes")
    return warn(f"{text}: sweeps train on CPUs here, which is for the miniature ones")


def _driver(rows: list[list[str]]) -> Finding:
    import torch

    version, cuda = rows[0][1], torch.version.cuda
    text = f"{version}, {len(rows)} x {rows[0][0]} of {rows[0][2]}"
    oldest = OLDEST_DRIVER.get(int(cuda.partition(".")[0])) if cuda else None
    if oldest and int(version.partition(".")[0]) < oldest:
        return fail(
            f"{text}: torch is built for CUDA {cuda}, which needs driver {oldest} or newer: update it, "
            f"or install torch for an older CUDA: uv pip install --torch-backend=auto torch=={_release()}"
        )
    return ok(text)


def check_cuda(subject: Subject) -> Iterator[Finding]:
    """Check that torch sees the GPUs that a trial needs, and can compute on each."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    reasons = [one_line(warning.message) for warning in caught if isinstance(warning.message, Warning)]
    if count == 0:
        yield _without_cuda(subject, reasons)
        return
    if count < subject.gpus:
        yield fail(
            f"torch sees {count} GPUs, and a trial asks for {subject.gpus}: set resources.workers={count} "
            f"or see whether CUDA_VISIBLE_DEVICES hides some"
        )
    for index in range(count):
        yield from _device(subject, index)


def _without_cuda(subject: Subject, reasons: list[str]) -> Finding:
    import torch

    if torch.version.cuda is None:
        text = f"torch {torch.__version__} is a build without CUDA"
        remedy = f"install one with it: uv pip install --torch-backend=auto torch=={_release()}"
    else:
        text = f"torch {torch.__version__} sees no GPU{': ' if reasons else ''}{'; '.join(reasons)}"
        remedy = "in a container put libcuda.so.1 on LD_LIBRARY_PATH (on GKE /usr/local/nvidia/lib64)"
    if subject.gpus:
        return fail(f"{text}, and the sweep asks for GPUs: {remedy}")
    wanted = shutil.which(QUERY[0]) is not None or KERNEL_DRIVER.exists()
    return warn(f"{text}, though this machine has a driver: {remedy}") if wanted else ok(text)


def _device(subject: Subject, index: int) -> Iterator[Finding]:
    """Compute on one GPU, and compare its memory with `resources.gpu`."""
    import torch

    try:
        total = float(torch.ones(8, device=f"cuda:{index}").sum())
        free, size = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        yield fail(
            f"GPU {index}: cannot be used: {one_line(error)}: see nvidia-smi for who uses it, and its errors"
        )
        return
    name = f"GPU {index}, {torch.cuda.get_device_name(index)} of {size / 2**30:.0f} GiB"
    kind = None if subject.plan is None or subject.on_cluster else subject.plan.sweep.resources.gpu
    if total != 8.0:
        yield fail(f"{name}: computes wrong sums: take it out of service")
    elif kind is not None and size < SMALLER * GPUS[kind].gibibytes * 2**30:
        yield fail(
            f"{name}: resources.gpu is {kind}, which has {GPUS[kind].gibibytes:g} GiB: set it to what is here"
        )
    else:
        level = Level.OK if free > FREE * size else Level.WARN
        used = "" if level is Level.OK else f": {(size - free) / 2**30:.0f} GiB are in use: see nvidia-smi"
        yield Finding(level, f"{name}: computes{used}")


def _release() -> str:
    import torch

    return str(torch.__version__).partition("+")[0]
