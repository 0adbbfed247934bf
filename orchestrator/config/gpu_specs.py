"""GPUs that a plan can reckon with, by the makers' figures; costs nothing to import."""

from dataclasses import dataclass

RESERVED = 0.08
"""Share of a GPU's memory left to its context, to workspaces of cuDNN, cuBLAS and NCCL, and to
fragmentation. Assumed, not measured."""
ASSUMED_SHARE = 0.3
"""Of the peak that a step is taken to sustain: a goal, not a measurement."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    gibibytes: float
    """Memory that a program sees: less than is in the name, where error correction takes some."""
    bf16_tflops: float
    """Peak of the matrix units, dense, sums in float32 (data sheets give twice that for sparse ones)."""
    fp32_tflops: float
    """Peak without them, as torch multiplies float32."""

    @property
    def usable_bytes(self) -> float:
        return self.gibibytes * (1 - RESERVED) * 2**30

    def assumed_tflops(self, half: bool) -> float:
        """What a step is taken to sustain, in bf16 or in float32."""
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
UNNAMED = "A100-40GB"
"""Whose speed is assumed where a sweep file names no GPU."""
