"""What one step of training minimises: one file an objective, one face for all.

An objective maps (networks, batch, random draws) to losses; it knows no optimiser, no process
group and no file. The training group calls, for each global batch:

    draws = objective.draw(batch, generator)                 every random number of the step
    student = objective.student_loss(student_net, ...)       back-propagate, step the student
    for update in draws.fake_score: objective.fake_score_loss(...)   the same for its adapters
"""

from workloads.objectives.pgsb import PGSB, Draws, StudentLoss

__all__ = ["PGSB", "Draws", "StudentLoss"]
