"""MLflow, and nobody else: where runs are recorded and where they are looked at.

An experiment is a sweep's name; a parent run is a launch of it; a child run is a trial. All of
it is written from the driver, by `MlflowClient` with explicit run ids. `server` says which
MLflow that is, `runs` records, `models` registers students and fetches them, `curves` and
`comparison` show what a student and what a sweep came to, `trainings` reads them back.
"""

from orchestrator.tracking.client import Tracker
from orchestrator.tracking.history import read_sweep, recorded_trainings
from orchestrator.tracking.parent_run import log_comparison
from orchestrator.tracking.registry import fetch_student, name_champion, register_student
from orchestrator.tracking.server import look_command, tracking_uri
from orchestrator.tracking.strength_curve import log_curve

__all__ = [
    "Tracker",
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
