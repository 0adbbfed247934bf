"""Shares of a GPU: those that Ray can represent, and the memory that a process with one may take."""

from types import SimpleNamespace

import pytest
import torch

from orchestrator.common.errors import UserError
from orchestrator.config.gpu_sharing import CONTEXT_BYTES, holders, limit_gpu_memory, one_nth, sharers

TOTAL = 22 * 2**30


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """What torch is asked for, by share and device, in a process with a GPU of 22 GiB."""
    asked: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    found = SimpleNamespace(total_memory=TOTAL)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {3: found}.__getitem__)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: asked.append(given))
    return asked


def test_all_that_share_a_gpu_fit_on_it() -> None:
    assert [one_nth(count) for count in (1, 2, 3, 4, 7, 16)] == [1, 0.5, 0.3333, 0.25, 0.1428, 0.0625]
    for count in range(1, 101):
        assert sharers(one_nth(count)) == count
        assert count * round(one_nth(count) * 10_000) <= 10_000, "in Ray's units"


def test_no_share_is_split_over_two_gpus() -> None:
    assert holders(2, 0.4) == 4, "and a fifth of each GPU stays free"
    assert holders(4, 0.3333) == 12 and holders(4, 1) == 4 and holders(8, 3) == 2 and holders(0, 0.25) == 0
    assert holders(0.5, 0.25) == 0, "of a node whose GPU is another's by half"


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_processes_with_their_contexts_fit_on_the_gpu(limited: list[tuple[float, int]], count: int) -> None:
    limit_gpu_memory(one_nth(count))
    ((fraction, device),) = limited
    assert device == 3 and isinstance(fraction, float), "torch refuses other numbers"
    assert 0.99 * TOTAL < count * (fraction * TOTAL + CONTEXT_BYTES) <= TOTAL


def test_whole_gpus_and_cpus_are_not_limited(
    limited: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_gpu_memory(1)
    limit_gpu_memory(2)
    limit_gpu_memory(0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit_gpu_memory(0.25)
    assert limited == []


def test_a_share_below_a_context_is_refused(limited: list[tuple[float, int]]) -> None:
    with pytest.raises(UserError, match=r"^a share of 0\.02 of this GPU's 22 GiB .*: raise resources\.gpus_"):
        limit_gpu_memory(0.02)
    assert limited == []


def test_torch_keeps_to_the_fraction_it_is_given() -> None:
    """What the limit relies on; on a machine with a GPU the allocator itself."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    limit_gpu_memory(0.25)
    total = torch.cuda.get_device_properties(0).total_memory
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total // 4, dtype=torch.uint8, device="cuda")
    torch.cuda.set_per_process_memory_fraction(1.0)
