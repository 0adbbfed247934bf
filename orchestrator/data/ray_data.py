"""Ray Data's settings in every process that runs a dataset: the driver, and each training worker.

Ray Data's executor is a thread of the consuming process, so in a training worker every poll of its tasks
takes time from the training; and it reads as far ahead as the object store has room. Both are limited to
what a training needs.
"""

import math
from typing import Any

import ray

from orchestrator.common.ray_internals import limit_ray_data


def prepare_data_context(blocks_ahead: float = math.inf) -> None:
    """Make Ray Data quiet and ordered in this process; an operator keeps at most `blocks_ahead` ready."""
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Otherwise the cause is lost, as a full disk under the shards.
    context.raise_original_map_exception = True
    context.execution_options.preserve_order = True
    limit_ray_data(context, blocks_ahead)
