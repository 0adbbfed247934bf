"""Attention guidance: negative prompts for a student that has no second pass to be guided by.

`kernels` holds the formulas (NASA, NAG), `guidance` puts them into a network's cross-attention
layers and takes them out again.
"""

from workloads.attention.guidance import AttentionGuidance, nasa

__all__ = ["AttentionGuidance", "nasa"]
