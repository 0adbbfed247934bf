"""Memory and peak speed of the GPUs that a plan knows, from the vendors' data sheets; light to import."""

from dataclasses import dataclass

from orchestrator.config.gpu_sharing import CONTEXT_BYTES, RAY_UNITS, one_nth

RESERVED = 0.08
"""Share of a GPU's memory reserved for its context, for workspaces of cuDNN, cuBLAS and NCCL, and for
fragmentation. Assumed, not measured."""
ASSUMED_SHARE = 0.3
"""Share of the peak that a step is assumed to sustain: a goal, not a measurement."""


@dataclass(frozen=True)
class Gpu:
    """Specification of one GPU."""

    gibibytes: float
    """Memory that a program sees: less than the product's name where error correction takes some."""
    bf16_tflops: float
    """Dense peak of the matrix units in bf16 with float32 sums (data sheets give twice that for sparse)."""
    fp32_tflops: float
    """Peak without the matrix units, which is how torch multiplies float32."""

    def usable_bytes(self, share: float = 1) -> float:
        """Return the memory that a process with `share` of the GPU can use for its tensors.

        A process with less than a whole GPU has a context of its own beside those of the others.
        """
        part = share * self.gibibytes * (1 - RESERVED) * 2**30
        return part if share == 1 else max(0.0, part - CONTEXT_BYTES)

    def assumed_tflops(self, half: bool) -> float:
        """Return the TFLOP/s that a step is assumed to sustain, in bf16 (`half`) or in float32."""
        return ASSUMED_SHARE * (self.bf16_tflops if half else self.fp32_tflops)


GPUS = {
    "A10G": Gpu(22, 70, 31.5),
    "L4": Gpu(22, 121, 30.3),
    "L40S": Gpu(44, 362, 91.6),
    "A100-40GB": Gpu(39, 312, 19.5),
    "A100-80GB": Gpu(79, 312, 19.5),
    "H100": Gpu(79, 989, 67),
    "H200": Gpu(139, 989, 67),
    "B200": Gpu(178, 2250, 75),
}
DEFAULT_GPU = "A100-40GB"
"""GPU whose speed is assumed if a sweep file names none."""


def check_gpu(name: str) -> str:
    """Return `name` if it is one of `GPUS`.

    Raises:
        ValueError: it is not.
    """
    if name not in GPUS:
        raise ValueError(f"is {name!r}, not one of {', '.join(GPUS)}: choose the nearest, or leave it out")
    return name


def check_share(share: float) -> float:
    """Return `share` if it is 0, 1 or one nth of a GPU in Ray's four decimals.

    Raises:
        ValueError: it is another number between 0 and 1.
    """
    nearest = one_nth(round(1 / max(share, 1 / RAY_UNITS))) if share else share
    if share != nearest:
        raise ValueError(
            f"is {share:g}, and Ray gives 0, 1 or one nth of a GPU, in four decimals: set {nearest:g}, the "
            f"nearest"
        )
    return share


def whole_as_integer(count: float) -> float:
    """Return a whole number as an integer: the form in which digests of launches count it."""
    return int(count) if float(count).is_integer() else count
