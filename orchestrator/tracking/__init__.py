"""Recording and reading of sweeps in MLflow; the only package that imports it.

An experiment is a sweep's name, a parent run is a sweep in one storage, a child run is a trial. The driver
writes all of it, by `MlflowClient` with explicit run ids.
"""

from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import read_sweep, recorded_trainings
from orchestrator.tracking.parent_run import describe_sweep, log_comparison
from orchestrator.tracking.registry import fetch_student, name_champion, register_student
from orchestrator.tracking.server import look_command, tracking_uri
from orchestrator.tracking.strength_curve import log_curve

__all__ = [
    "Tracker",
    "describe_sweep",
    "fetch_student",
    "log_comparison",
    "log_curve",
    "look_command",
    "name_champion",
    "read_sweep",
    "recorded_trainings",
    "register_student",
    "tracking_uri",
]
