"""MLflow, and nobody else: where runs are recorded and where they are looked at.

An experiment is a sweep's name; a parent run is a launch of it; a child run is a trial. All of
it is written from the driver, by `MlflowClient` with explicit run ids. `server` says which
MLflow that is, `runs` records, `models` registers students, `comparison` draws the parent's page.
"""

from orchestrator.tracking.comparison import log_comparison
from orchestrator.tracking.models import register_student
from orchestrator.tracking.runs import Tracker
from orchestrator.tracking.server import look_command, tracking_uri

__all__ = ["Tracker", "log_comparison", "look_command", "register_student", "tracking_uri"]
