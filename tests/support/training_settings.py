"""The settings of a trial as those of one objective."""

from orchestrator.planning.plan import Trial
from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings


def pgsb(trial: Trial) -> PGSBSettings:
    assert isinstance(trial.train, PGSBSettings)
    return trial.train


def boot(trial: Trial) -> BootSettings:
    assert isinstance(trial.train, BootSettings)
    return trial.train
