"""The step's benchmark prints its figures, and needs no Ray, DeepSpeed or MLflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import step

pytestmark = pytest.mark.heavy
REPOSITORY = Path(__file__).parents[2]
BARE = """
import sys
import tests.benchmarks.step, tests.benchmarks.step_options

found = {"ray", "deepspeed", "mlflow", "orchestrator"} & set(sys.modules)
assert not found, found
"""


def test_the_figures_of_each_backbone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.step", "--backbones", "pixart"]
    command += ["--batch", "8", "--rounds", "3", "--json", str(tmp_path / "step.json")]
    command += ["--activation-checkpointing", "--score-batch", "role"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "step.json").read_text())["pixart"]
    for loop in ("ours", "restated"):
        assert found[loop]["samples_per_second"] > 0
    assert found["ratio"] > 0 and found["pairs"] == 3
    assert found["largest_loss_difference"] < 1e-3
    assert found["step"] == {"activation_checkpointing": True, "score_batch": "role", "compile": False}
    # Bytes that the allocator reports do not depend on how busy the machine is.
    assert found["ours"]["peak_memory_bytes"] <= 0.95 * found["restated"]["peak_memory_bytes"]
    assert found["restated"]["peak_memory_bytes"] < found["three_networks"]["peak_memory_bytes"]
    assert "ours / restated" in done.stdout


def test_a_backbone_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["step", "--backbones", "sd9"])
    with pytest.raises(SystemExit, match=r"^no backbone 'sd9'; there are unet-epsilon"):
        step.main()


def test_what_an_option_is_worth(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.step_options", "--backbones", "unet-v", "--batch", "8"]
    command += ["--options", "activation_checkpointing", "channels_last", "AdamW not fused", "--rounds", "2"]
    command += ["--json", str(tmp_path / "options.json")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "options.json").read_text())["unet-v"]
    assert set(found) == {"activation_checkpointing", "channels_last", "AdamW not fused"}
    assert found["activation_checkpointing"]["peak_ratio"] < 0.9


@pytest.mark.parametrize(
    "mistake", [["--batch", "0"], ["--rounds", "1"], ["--json", "nowhere/x.json"]], ids=lambda m: m[0]
)
def test_a_mistake_is_told_at_once(
    mistake: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["step", *mistake])
    with pytest.raises(SystemExit) as ended:
        step.main()
    assert ended.value.code == 2 and mistake[0] in capsys.readouterr().err


def test_a_bare_machine_can_run_it() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
