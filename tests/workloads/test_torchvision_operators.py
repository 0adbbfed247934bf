"""The import hook for torchvision next to a torch without its CUDA libraries."""

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
def test_torchvision_imports(package: str) -> None:
    uses = "import torchvision.transforms; from transformers import CLIPImageProcessor, CLIPTextModel"
    assert run(f"import {package}; {uses}; print('fine')").endswith("fine\n")


def test_hook_does_not_import_torch() -> None:
    assert run("import sys, orchestrator; print('torch' in sys.modules)") == "False\n"


def test_nothing_declared_if_operators_load(monkeypatch: pytest.MonkeyPatch) -> None:
    before = list(torchvision_operators._declared)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    torchvision_operators._declare_missing()
    assert torchvision_operators._declared == before
