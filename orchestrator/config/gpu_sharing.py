"""Shares of a GPU: which ones there are, and the memory that a process with a share may take.

Light to import: a plan and each process of a trial use it.
"""

from orchestrator.common.errors import UserError

RAY_UNITS = 10_000
"""Ray counts a GPU in ten-thousandths (`FixedPoint` in its source)."""
CONTEXT_BYTES = 2**29
"""Memory of a GPU that each process takes beside torch's allocator: its CUDA context with the kernels that
are loaded. About 400 MB with CUDA 11.7 and newer, which loads kernels when they are used (github.com/pytorch/
pytorch/issues/109888); assumed, not measured."""


def one_nth(count: int) -> float:
    """Return the share of each of `count` processes, cut to what Ray can represent: 0.3333 for three."""
    return RAY_UNITS // count / RAY_UNITS


def sharers(share: float) -> int:
    """Return how many processes with this share, above 0 and at most 1, fit on one GPU."""
    return int(1 / share + 1e-6)


def holders(gpus: float, asked: float) -> int:
    """Return how many processes that ask for `asked` GPUs a node with `gpus` holds; no share is split."""
    return int(gpus) * sharers(asked) if asked < 1 else int(gpus / asked + 1e-6)


def limit_gpu_memory(share: float) -> None:
    """Keep torch's allocator in this process within `share` of its GPU's memory, less a context.

    A process that exceeds it gets an out-of-memory error, and those that share the GPU with it do not.
    Without a GPU, and for a whole one, nothing is limited.

    Raises:
        UserError: a context alone is larger than the share.
    """
    # Importing torch takes seconds.
    import torch

    if not 0 < share < 1 or not torch.cuda.is_available():
        return
    device = torch.cuda.current_device()
    total = torch.cuda.get_device_properties(device).total_memory
    if share * total <= CONTEXT_BYTES:
        raise UserError(
            f"a share of {share:g} of this GPU's {total / 2**30:.0f} GiB does not hold a CUDA context "
            f"({CONTEXT_BYTES / 2**30:g} GiB): raise resources.gpus_per_worker or infer.gpus"
        )
    torch.cuda.set_per_process_memory_fraction(share - CONTEXT_BYTES / total, device)
