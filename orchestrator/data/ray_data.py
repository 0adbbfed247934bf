"""Ray Data's settings in every process that runs a dataset: the driver, and each training worker."""

from typing import Any

import ray


def prepare_data_context() -> None:
    """Make Ray Data quiet and ordered in this process."""
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
