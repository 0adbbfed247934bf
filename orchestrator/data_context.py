"""Ray Data's settings in every process that runs a dataset: the driver, and each training worker."""

import time
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback

PAUSE_SECONDS = 0.05


class Paced(ExecutionCallback):  # type: ignore[misc]
    """Rests between two looks of the executor at its tasks.

    While it may start no task and none runs (the consumer is slower than the reader, or the
    cluster's CPUs are all taken, which is the rule beside a training), Ray Data's executor looks
    again at once, for ever. It is a thread of the training worker: measured there, it used more
    CPU time than the training.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Called by the executor after each look."""
        time.sleep(PAUSE_SECONDS)


def prepare_data_context() -> None:
    """Makes Ray Data quiet, ordered and modest in this process."""
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.custom_execution_callback_classes = [Paced]
