"""Programs in a process that cannot import this project, but the libraries that it is tested with."""

import subprocess
import sys
from pathlib import Path

PREFACE = """
import sys
# Without it: its operators do not load beside every build of torch, which this project repairs for itself.
sys.modules["torchvision"] = None
for name in ("workloads", "orchestrator"):
    sys.modules[name] = None
import torch
"""


def run_clean(program: str, folder: Path, *arguments: str) -> str:
    """Run `program` in the empty working directory `folder`; return what it prints.

    -I isolates it from the environment's variables, the user's packages and the working directory.
    """
    command = [sys.executable, "-I", "-c", PREFACE + program, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
