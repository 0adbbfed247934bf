"""Scorers: pictures and prompts in, numbers with their sample count and interval out."""

from workloads.scorers.attributes import AttributeAccuracy
from workloads.scorers.score import Score

__all__ = ["AttributeAccuracy", "Score"]
