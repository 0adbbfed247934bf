"""torchvision beside a torch that it was not built for: see the module's own words."""

import subprocess
import sys

import pytest
import torch

from workloads import torchvision_operators


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["workloads", "orchestrator"])
def test_torchvision_imports_in_every_process_of_ours(package: str) -> None:
    uses = "import torchvision.transforms; from transformers import CLIPImageProcessor, CLIPTextModel"
    assert run(f"import {package}; {uses}; print('fine')").endswith("fine\n")


def test_preparing_costs_nothing() -> None:
    assert run("import sys, orchestrator; print('torch' in sys.modules)") == "False\n"


def test_nothing_is_declared_where_the_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(torchvision_operators._declared)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    torchvision_operators._declare_missing()
    assert torchvision_operators._declared == before
