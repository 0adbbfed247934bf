"""LoRAs of a backbone: part of the trial's identity and of the plan's text, and refused in one line."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from orchestrator.api import load_sweep, make_plan
from orchestrator.common.errors import UserError
from orchestrator.common.storage import Store
from orchestrator.config.evaluation_schema import Evaluate
from orchestrator.data.prompt_encoding import PromptSet
from orchestrator.evaluation.reference import reference_name
from orchestrator.execution.launch import _params
from orchestrator.planning.describe import describe_plan
from orchestrator.planning.plan import Plan
from orchestrator.results.champions import _champion_tags
from orchestrator.results.compatibility import check_resumable, trial_identity
from orchestrator.results.ledger import result_file
from orchestrator.results.model_card import model_card
from orchestrator.results.record import TrialRecord
from tests.support.cli import MINIMAL, refused, written
from tests.support.pickle_bomb import plant
from workloads.backbones.loras.entry import Lora, TeacherSource
from workloads.miniature import WEIGHTS

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
WIDTH = 32
Files = Callable[[Path], str]
"""Writes files into an empty folder; returns the path that the sweep names."""


def pair(stem: str = LAYER, *, out: int = WIDTH, width: int = WIDTH, rank: int = 2) -> dict[str, Tensor]:
    """Factors of a layer under diffusers' names."""
    return {f"{stem}.lora_A.weight": torch.ones(rank, width), f"{stem}.lora_B.weight": torch.ones(out, rank)}


def kohya(stem: str, *, width: int = WIDTH, **more: Tensor) -> dict[str, Tensor]:
    factors = {"lora_down.weight": torch.ones(2, width), "lora_up.weight": torch.ones(WIDTH, 2), **more}
    return {f"{stem}.{name}": value for name, value in factors.items()}


def file(tensors: Mapping[str, Tensor], name: str = "style.safetensors", **header: str) -> Files:
    def write(folder: Path) -> str:
        save_file(dict(tensors), folder / name, header or None)
        return str(folder / name)

    return write


def peft(tensors: Mapping[str, Tensor], **config: Any) -> Files:
    """PEFT's two files; an entry that is None is left out."""

    def write(folder: Path) -> str:
        file(tensors, "adapter_model.safetensors")(folder)
        every = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **config}
        kept = {key: value for key, value in every.items() if value is not None}
        (folder / "adapter_config.json").write_text(json.dumps(kept))
        return str(folder)

    return write


def pickled(name: str, named: bool) -> Files:
    def write(folder: Path) -> str:
        plant(folder / name, folder / "run")
        return str(folder / name) if named else str(folder)

    return write


def cut(write: Files) -> Files:
    def spoil(folder: Path) -> str:
        path = Path(write(folder))
        path.write_bytes(path.read_bytes()[:-8])
        return str(path)

    return spoil


def two(folder: Path) -> str:
    for name in ("a.safetensors", "b.safetensors"):
        file(pair(), name)(folder)
    return str(folder)


def changed(tensors: dict[str, Tensor], **new: Tensor) -> dict[str, Tensor]:
    return {
        **tensors,
        **{f"{LAYER}.{name.replace('_weight', '.weight')}": value for name, value in new.items()},
    }


BARE = LAYER.removeprefix("unet.")
PEFT_PAIR = pair(f"base_model.model.{BARE}")
FLAT = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
REFUSED: dict[str, tuple[Files, str]] = {
    "no-file": (lambda folder: str(folder / "a.safetensors"), r"no such file or folder: give a file"),
    "no-folder": (lambda folder: "./style/of/mine", r"lora './style/of/mine': no such file or folder"),
    "no-such-id": (lambda folder: "owner/style@v1", r"lora 'owner/style@v1': no such file, and no model on"),
    "no-such-file-of-id": (lambda folder: "owner/style:a.safetensors", r"no such file, and no model on the"),
    "password": (lambda folder: "https://me:hunter22@host/a", r"lora .*(credential|password)(?!.*hunter22)"),
    "empty-folder": (str, r"has neither pytorch_lora_weights\.safetensors nor adapter_model"),
    "two-files": (two, r"the folder has several safetensors files, such as a\.safetensors: name one"),
    "pickle": (pickled("style.pt", True), r"style\.pt is a pickle, which can run any code .*: take"),
    "pickle-in-folder": (pickled("pytorch_lora_weights.bin", False), r"lora_weights\.bin is a pickle"),
    "pickle-renamed": (pickled("style.safetensors", True), r"is truncated or not a safetensors file"),
    "cut-short": (cut(file(pair())), r"style\.safetensors is truncated or not a safetensors file"),
    "a-whole-model": (
        lambda folder: str(WEIGHTS / "unet-v/unet/diffusion_pytorch_model.safetensors"),
        r"is no LoRA: it has \d+ weights, such as .*; a whole model is given as `model`",
    ),
    "no-weights": (file({}), r"is no LoRA: it has 0 weights"),
    "unknown-weight": (file({**pair(), "unet.bias": torch.ones(2)}), r"has unet\.bias, which is no part of"),
    "one-factor": (file({k: v for k, v in pair().items() if "A" in k}), r"its \S+to_q lacks the second"),
    "ranks-differ": (
        file(changed(pair(), lora_B_weight=torch.ones(WIDTH, 3))),
        rf"its {LAYER} have shapes \[2, {WIDTH}\] and \[{WIDTH}, 3\], which have no common rank",
    ),
    "not-finite": (file(changed(pair(), lora_A_weight=torch.full((2, WIDTH), torch.nan))), r"not finite"),
    "alpha-a-list": (
        file(kohya(FLAT, alpha=torch.ones(2))), r"the alpha of its lora_unet_\S+ is no number: the file is"
    ),
    "dora-of-kohya": (
        file(kohya(FLAT, dora_scale=torch.ones(WIDTH, 1))), r"is a DoRA, which is not supported: give a plain"
    ),
    "dora-of-peft": (peft(PEFT_PAIR, use_dora=True), r"is a DoRA, which is not supported"),
    "lokr": (file({f"{FLAT}.lokr_w1": torch.ones(2, 2)}), r"is a LoKr, which is not supported"),
    "loha": (file({f"{FLAT}.hada_w1_a": torch.ones(2, 2)}), r"is a LoHa, which is not supported"),
    "biases": (file(changed(pair(), **{"lora_B.bias": torch.ones(WIDTH)})), r"is a LoRA with biases, which"),
    "unknown-layer": (
        file({**pair(), **pair("unet.down_blocks.7.to_q")}),
        r"StableDiffusionPipeline has no unet\.down_blocks\.7\.to_q \(1 of its 2 layers are unknown\)",
    ),
    "sdxl-of-kohya": (
        file(kohya("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", width=2048)),
        r"1 of its 1 layers are unknown; it looks like a LoRA of SDXL\): give a LoRA of this backbone",
    ),
    "flux": (
        file(kohya("lora_unet_double_blocks_0_img_attn_qkv")), r"it looks like a LoRA of FLUX\): give a LoRA"
    ),
    "sd15-widths": (
        file(pair(LAYER.replace("attn1.to_q", "attn2.to_k"), width=768)),
        rf"is for weights of shape \[{WIDTH}, 768\], but those of the unet have \[{WIDTH}, 64\]; it "
        r"looks like a LoRA of Stable Diffusion 1\.x",
    ),
    "header-says": (
        file(pair(width=7), ss_base_model_version="sdxl_base_v1-0"), r"says that it is for 'sdxl_base_v1-0'"
    ),
    "second-text-encoder": (
        file({**pair(), **kohya("lora_te2_text_model_encoder_layers_0_mlp_fc1")}),
        r"has weights of text_encoder_2, which StableDiffusionPipeline lacks; it looks like a LoRA of SDXL",
    ),
    "of-a-transformer": (
        file(pair("transformer.transformer_blocks.0.attn1.to_q")), r"has weights of transformer, which Stable"
    ),
    "peft-without-config": (file(PEFT_PAIR), r"has PEFT's names without its adapter_config\.json, which"),
    "peft-config-lost": (
        file(PEFT_PAIR, "adapter_model.safetensors"), r"has adapter_model\.safetensors without the"
    ),
    "peft-no-alpha": (peft(PEFT_PAIR, lora_alpha=None), r"its settings have no number lora_alpha: copy"),
    "peft-rank": (peft(PEFT_PAIR, r=4), r"to_q has rank 2, where its settings say 4: copy file"),
    "peft-other-kind": (peft(PEFT_PAIR, peft_type="IA3"), r"has peft_type IA3: give one of LORA"),
    "peft-unknown-layer": (
        peft(pair("base_model.model.layers.0.attention.to_q")),
        r"has no base_model\.model\.layers\.0\.attention\.to_q .*; it looks like a LoRA of Z-Image",
    ),
    "header-not-json": (file(pair(), lora_adapter_metadata="{"), r"its header's lora_adapter_metadata is no"),
}  # fmt: skip


def sweep(path: str, weight: float | None = None, model: str = "miniature/unet-epsilon") -> str:
    """Text of a sweep whose backbone has this LoRA."""
    entry = {"path": path} if weight is None else {"path": path, "weight": weight}
    return MINIMAL.replace("model: miniature/pixart", f"model: {model}, loras: {json.dumps([entry])}")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("write", "pattern"), REFUSED.values(), ids=REFUSED)
def test_bad_loras_are_refused_before_start(
    write: Files,
    pattern: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "lora").mkdir()
    text = sweep(write(tmp_path / "lora"))
    refused(capsys, pattern, written(tmp_path, text), "--storage", str(tmp_path / "results"))
    assert not (tmp_path / "lora/run").exists(), "the pickle was run"


def plan_of(folder: Path, text: str) -> Plan:
    return make_plan(load_sweep(written(folder, text)))


def test_trials_without_loras_keep_their_digests(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, MINIMAL)
    assert "loras" not in plan.trials[0].identity
    empty = plan_of(
        tmp_path, MINIMAL.replace("model: miniature/pixart", "model: miniature/pixart, loras: []")
    )
    assert (empty.digest, empty.trials[0].digest) == (plan.digest, plan.trials[0].digest)


def test_path_and_weight_are_part_of_the_trial(tmp_path: Path) -> None:
    plain = plan_of(tmp_path, MINIMAL.replace("miniature/pixart", "miniature/unet-epsilon"))
    plans = [plan_of(tmp_path, sweep(*each)) for each in (("a",), ("b",), ("a", 0.5))]
    every = [plain, *plans]
    assert len({plan.trials[0].digest for plan in every}) == len({plan.digest for plan in every}) == 4
    assert len({plan.trials[0].teacher for plan in every}) == 4
    assert plan_of(tmp_path, sweep("a", 1.0)).trials[0].digest == plans[0].trials[0].digest


def test_plan_and_run_name_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, sweep("owner/style@v1:a.safetensors", 0.75))
    text = describe_plan(plan, "results", "mlflow")
    assert (
        "backbone pixart: the teacher is miniature/unet-epsilon with owner/style@v1:a.safetensors x 0.75"
        in text
    )
    assert _params(plan.trials[0])["loras"] == "owner/style@v1:a.safetensors x 0.75"
    assert "loras" not in _params(plan_of(tmp_path, MINIMAL).trials[0])


def test_card_and_champion_name_them(tmp_path: Path) -> None:
    (trial,) = plan_of(tmp_path, sweep("owner/style@v1:a.safetensors", 0.75)).trials
    record = TrialRecord(trial, "run", "finished")
    card = model_card(record, "prompts.txt", (), "red", {}, WEIGHTS / "unet-epsilon")
    assert "student of `miniature/unet-epsilon` with the LoRA `owner/style@v1:a.safetensors x 0.75`" in card
    assert "| LoRAs in the teacher | `owner/style@v1:a.safetensors x 0.75` |" in card
    assert _champion_tags(record)["loras"] == "owner/style@v1:a.safetensors x 0.75"


def test_reference_follows_the_content_of_the_file(tmp_path: Path) -> None:
    """It is trained again under the same name; the path alone does not tell."""
    evaluate, source = Evaluate(sheet_prompts=["a circle"], scorers=[]), str(WEIGHTS / "unet-epsilon")
    path = file(pair())(tmp_path)
    teachers = [TeacherSource(source, loras) for loras in ((), (Lora(path),), (Lora(path, 0.5),))]
    names = [reference_name(teacher, evaluate, None) for teacher in teachers]
    file(pair(rank=3))(tmp_path)
    names.append(reference_name(teachers[1], evaluate, None))
    assert len(set(names)) == 4


def test_home_folder_is_written_as_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file(pair())(tmp_path)
    (lora,) = plan_of(tmp_path, sweep("~/style.safetensors")).trials[0].loras
    assert lora.path == os.path.realpath(tmp_path / "style.safetensors")


@pytest.mark.parametrize("now", [None, 0.5])
def test_a_finished_trial_with_another_lora_is_not_replaced(now: float | None, tmp_path: Path) -> None:
    """The LoRA is left out of the file, or has another weight than when the trial was trained."""
    store, finished = Store(str(tmp_path)), plan_of(tmp_path, sweep("a"))
    identity = trial_identity(finished, finished.trials[0], PromptSet("", "", "", (1,), 1, 0))
    store.write_json(result_file("tiny", finished.trials[0]), {"identity": identity})
    text = sweep("a").replace(', loras: [{"path": "a"}]', "") if now is None else sweep("a", now)
    with pytest.raises(UserError, match=r"was made with loras \[\{'path': 'a', 'weight': 1\.0\}\], which is"):
        check_resumable(plan_of(tmp_path, text), store, None)
