"""Merging two students: the arithmetic, the folder, and the inputs that are refused."""

import sys
from pathlib import Path

import pytest
import torch

from workloads.backbones.backbone import load_backbone, load_network
from workloads.backbones.families import family_of
from workloads.miniature import WEIGHTS
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.defaults import load_defaults, save_defaults
from workloads.students.merge import main, merge_students
from workloads.students.sampler import Generator
from workloads.students.student import new_student, save_student


def student(folder: Path, teacher: str = "pixart", seed: int = 0, start: int = 400) -> str:
    """Save a student whose weights differ from its teacher's at random."""
    backbone = load_backbone(str(WEIGHTS / teacher), start_timestep=start)
    network, generator = new_student(backbone), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_student(backbone, network, folder)
    return str(folder)


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_network(folder, family_of(folder), torch.float32).state_dict()


def test_weights_are_averaged(tmp_path: Path) -> None:
    first, second = student(tmp_path / "a", seed=1), student(tmp_path / "b", seed=2)
    save_defaults(Path(first), AttentionGuidanceSettings("nasa", 0.5))
    merge_students(first, second, tmp_path / "out", share=0.3)
    merged, a, b = weights(str(tmp_path / "out")), weights(first), weights(second)
    for name, weight in merged.items():
        torch.testing.assert_close(weight, 0.3 * a[name] + 0.7 * b[name], rtol=2e-3, atol=2e-4)
    assert load_defaults(tmp_path / "out").kind == "none", "a guidance scale belongs to one student"
    assert Generator(tmp_path / "out").draw("a red circle", [0]).shape == (1, 3, 16, 16)


def test_shares_0_and_1_copy_a_student(tmp_path: Path) -> None:
    first, second = student(tmp_path / "a", seed=1), student(tmp_path / "b", seed=2)
    for share, source in ((1.0, first), (0.0, second)):
        merge_students(first, second, tmp_path / f"out-{share}", share)
        for name, weight in weights(str(tmp_path / f"out-{share}")).items():
            assert torch.equal(weight, weights(source)[name])


def test_bad_inputs_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = student(tmp_path / "a"), student(tmp_path / "b", "unet-v")
    later = student(tmp_path / "c", start=500)
    for arguments, message in (
        ([first, other, "out"], "differ in family or start timestep"),
        ([first, later, "out"], "differ in family or start timestep"),
        ([first, first, "a"], "already exists"),
        ([first, first, "out", "--share", "1.5"], "share must be"),
        ([first, str(tmp_path / "none"), "out"], "is not a diffusers pipeline"),
    ):
        given = [*arguments[:2], str(tmp_path / arguments[2]), *arguments[3:]]
        monkeypatch.setattr(sys, "argv", ["merge", *given])
        with pytest.raises(SystemExit) as caught:
            main()
        line = capsys.readouterr().err
        assert caught.value.code == 2 and message in line and line.count("\n") == 1, line
        assert not (tmp_path / "out").exists()
