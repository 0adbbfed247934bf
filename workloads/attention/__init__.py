"""Attention guidance: negative prompts for a student that is called once per image.

`kernels` contains the formulas of NASA and NAG. `guidance` inserts them into the cross-attention layers of
a network and removes them again.
"""

from workloads.attention.guidance import AttentionGuidance, nasa_guidance

__all__ = ["AttentionGuidance", "nasa_guidance"]
