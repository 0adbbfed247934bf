"""Checks of trainings whose student reads its guidance scale; imports no torch."""

from typing import Any


def middle(interval: tuple[float, float]) -> float:
    """Return the geometric mean of an interval: the median of scales whose logarithm is uniform."""
    low, high = interval
    return float((low * high) ** 0.5)


def check_interval(settings: Any) -> None:
    """Check that the other `PGSBSettings` suit `guidance_input`, if it is set.

    Raises:
        ValueError: One does not; the message begins with a setting's name.
    """
    if not settings.guidance_input:
        return
    low, high = settings.guidance_interval
    if not 0 < low < high:
        raise ValueError(f"guidance_interval [{low}, {high}]: guidance_input needs 0 < low < high")
    if settings.guided == "fake_score":
        raise ValueError("guidance_input is the teacher's scale: guided must be teacher or both")
    if settings.guidance_per == "batch":
        raise ValueError("guidance_input draws a scale for each sample: leave guidance_per out")
    if settings.fake_score_interval is not None:
        raise ValueError("fake_score_interval and guidance_input exclude each other: leave one out")


def check_student(settings: Any) -> None:
    """Check that student and objective, in `TrainSettings`, suit `guidance_input`.

    Raises:
        ValueError: One does not.
    """
    if settings.guidance_input and settings.student_lora is not None:
        raise ValueError("guidance_input needs a student with weights of its own: leave student_lora out")
    if settings.objective == "boot" and settings.guidance_input == "student":
        raise ValueError("guidance_input: student is for the objective pgsb, but objective is boot")
