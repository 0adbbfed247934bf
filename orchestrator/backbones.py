"""Checks of backbones before anything is started: is each one there, and of a known family?"""

from orchestrator.errors import UserError
from orchestrator.plan import Plan
from workloads.families import family_of


def check_backbones(plan: Plan) -> None:
    """Reads the model index of every backbone and of every checkpoint a student starts from.

    Raises:
        UserError: naming the backbone, and what is supported.
    """
    starts = [t.train.start_from for t in plan.trials if t.train.start_from]
    for source in dict.fromkeys([trial.source for trial in plan.trials] + starts):
        try:
            family_of(source)
        except ValueError as error:
            raise UserError(str(error)) from None
