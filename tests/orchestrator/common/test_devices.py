"""A process to which Ray gave a GPU computes on it, or ends with a line."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from orchestrator.common.devices import process_device
from orchestrator.common.errors import UserError


def assigned(monkeypatch: pytest.MonkeyPatch, gpus: list[str], cuda: bool) -> None:
    context: Any = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": gpus})
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


def test_a_gpu_that_torch_does_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GKE in an image that does not look where GKE mounts the driver: weeks of work on a CPU."""
    assigned(monkeypatch, ["0"], cuda=False)
    with pytest.raises(
        UserError, match=r"^node .*: Ray assigned a GPU .* LD_LIBRARY_PATH must hold /usr/local"
    ):
        process_device()


def test_the_device_is_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assigned(monkeypatch, ["0"], cuda=True)
    assert process_device() == "cuda"
    assigned(monkeypatch, [], cuda=False)
    assert process_device() == "cpu"


def test_outside_of_ray_the_device_is_what_torch_sees() -> None:
    assert process_device() == ("cuda" if torch.cuda.is_available() else "cpu")
