"""Each miniature backbone, killed at three random steps, ends bit for bit as an unbroken training does."""

import random
from pathlib import Path

import pytest

from tests.support.chaos import ONE_WORKER, STEPS, SWEEP, Sweep, assert_same_weights, verdict

pytestmark = [pytest.mark.chaos, pytest.mark.cluster, pytest.mark.slow]
NAMES = ("unet-epsilon", "unet-v", "pixart")
BACKBONES = "backbones:\n" + "".join(f"  - {{name: {name}, model: miniature/{name}}}\n" for name in NAMES)
TEXT = SWEEP[: SWEEP.index("backbones:")] + BACKBONES + SWEEP[SWEEP.index("train:\n") :]
SEED = 20261124


def test_three_kills_each_change_no_bit(tmp_path: Path) -> None:
    numbers = random.Random(SEED)
    steps = {name: sorted(numbers.sample(range(1, STEPS + 1), 3)) for name in NAMES}
    faults = [{"trial": name, "step": step, "do": "kill"} for name in NAMES for step in steps[name]]
    sweeps = [Sweep(tmp_path / "unbroken", TEXT), Sweep(tmp_path / "broken", TEXT, faults)]
    for sweep in sweeps:
        sweep.run(*ONE_WORKER, "train.lora.targets=[to_q, to_v]")
        verdict(sweep, trials=3)
    assert len(sweeps[1].fired()) == 9, steps
    unbroken, broken = sweeps
    assert_same_weights(broken, unbroken)
    print(f"killed before steps {steps}: every tensor equal")
