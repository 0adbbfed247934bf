"""Ray Data's settings in every process that runs a dataset: the driver, and each training worker.

Ray Data's executor is a thread of the process that consumes, so in a training worker every look at
its tasks takes time from the training; and it reads as far ahead as the object store has room. Both
are held to what a training needs.
"""

import math
import time
from typing import Any

import ray
from ray.data._internal.block_batching.iter_batches import BatchIterator
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback

PAUSE_SECONDS = 0.05
REST_SECONDS = 2.0
"""At the most, while enough lies ready: so long may an executor take to see that it is to end."""
AHEAD = "blocks_ahead"


def _enough(context: Any, state: Any, running: int = 0) -> bool:
    """Return true if enough blocks are read or being read; see `prepare_data_context`."""
    ready: int = state.total_enqueued_output_blocks()
    enough: float = context.get_config(AHEAD, math.inf)
    return ready + running >= enough


class ThrottleCallback(ExecutionCallback):  # type: ignore[misc]
    """Rests between two looks of the executor at its tasks.

    While it may start no task and none runs (the consumer is slower than the reader, or the
    cluster's CPUs are all taken, which is the rule beside a training), Ray Data's executor looks
    again at once, for ever: measured in a training worker, it used more CPU time than the training.
    """

    def on_execution_step(self, executor: Any) -> None:
        """Called by the executor after each look."""
        _, state = executor._output_node
        time.sleep(PAUSE_SECONDS)
        until = time.monotonic() + REST_SECONDS
        # Cheap beside a look; and a training of fast steps is not made to wait for the rest to be over.
        while _enough(executor._data_context, state) and time.monotonic() < until:
            time.sleep(PAUSE_SECONDS)


class PrefetchLimit(BackpressurePolicy):  # type: ignore[misc]
    """Starts no task while enough lies ready for the consumer."""

    def can_add_input(self, op: Any) -> bool:
        """Asked by the executor before it starts a task of `op`."""
        return not _enough(self._data_context, self._topology[op], op.num_active_tasks())


def prepare_data_context(blocks_ahead: float = math.inf) -> None:
    """Makes Ray Data quiet, ordered and modest in this process.

    `blocks_ahead`: how many blocks an operator keeps ready for the next, or for the consumer.
    """
    # Every five seconds the consuming thread would pickle the metadata of all blocks, read or not, for
    # Ray's statistics: of ten thousand, a fifth of a second.
    BatchIterator.UPDATE_METRICS_INTERVAL_S = math.inf
    context: Any = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.custom_execution_callback_classes = [ThrottleCallback]
    context.set_config(AHEAD, blocks_ahead)
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, PrefetchLimit]
    )
