"""How much memory tensors hold at the most, as the allocators themselves report it."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that tensors made within `work` held at any time, on `device`.

    What was held before is not counted: make networks within `work` to have them counted too.
    On the CPU torch's profiler listens to the allocator ("Total Allocated"), so that files that
    are mapped into memory do not count; on CUDA the caching allocator keeps the peak itself.
    """
    gc.collect()  # or what earlier work left in cycles would be released within this one
    if torch.device(device).type == "cuda":
        return _cuda_peak(work, torch.device(device))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        torch.empty(1)  # gone at once, but its event tells what was held before
        work()
    first, *later = sorted(_memory_events(found), key=lambda event: event.start_time_ns)
    before = first.extra_fields.total_allocated - first.extra_fields.alloc_size
    return max((event.extra_fields.total_allocated - before for event in later), default=0)


def _cuda_peak(work: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _memory_events(found: profile) -> list[Any]:
    """One event for each allocation and each release."""
    results: Any = found.profiler
    waiting = list(results.kineto_results.experimental_event_tree())
    events = []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.name == "[memory]":
            events.append(event)
    return events
