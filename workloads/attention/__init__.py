"""Attention guidance: negative prompts for a student that is called once per image.

`kernels` contains the formulas of NASA, NAG and VSF. `guidance` inserts them into the attention layers of a
network and removes them again; `joint` and its adapters do so for joint attention.
"""

from workloads.attention.guidance import AttentionGuidance, nasa_guidance

__all__ = ["AttentionGuidance", "nasa_guidance"]
