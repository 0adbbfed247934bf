"""Prompt sources that a plan accepts without reading them."""

from pathlib import Path

import pytest

from orchestrator.config.sweep_file import load_sweep
from orchestrator.planning.checks import check_prompts
from orchestrator.planning.inference import make_inference_plan
from tests.support.cli import written


@pytest.mark.parametrize("source", ["~/p.txt", "~/prompts", "~/P.CSV.gz"])
def test_prompts_in_the_home(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("p.txt", "prompts/a.txt", "P.CSV.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    check_prompts(load_sweep(Path(written(tmp_path)), [f"prompts.source={source}"]))


def test_pairs_in_the_home_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    line = '{"prompt": "a circle", "negative_prompt": "red"}\n'
    (tmp_path / "pairs.jsonl").write_text(line, encoding="utf-8-sig")
    plan = make_inference_plan(load_sweep(written(tmp_path), ["infer.pairs=~/pairs.jsonl"]))
    assert plan is not None and [pair.prompt for pair in plan.pairs] == ["a circle"]
