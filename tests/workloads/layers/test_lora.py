import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import PeftModel
from torch import Tensor, nn

from tests.workloads.backbones.architectures import conditioning
from tests.workloads.objectives.test_pgsb import tiny_unet
from workloads.backbones.backbone import load_backbone
from workloads.layers.lora import AdaptedLayer, FakeScore, Role, adapt_student, merge_adapters
from workloads.layers.lora_files import export_peft, import_peft
from workloads.layers.transformer_blocks import compile_blocks
from workloads.miniature import WEIGHTS
from workloads.settings.train import LoraSettings

X = torch.randn(4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 200, 500, 900])
TEXT = torch.randn(4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([0.0, 1.0, 0.0, 1.0])
ALL = LoraSettings(rank=2, alpha=4, targets=("all",))


def adapted(settings: LoraSettings = ALL) -> tuple[UNet2DConditionModel, FakeScore]:
    """A teacher, and a fake score on it that has learnt something."""
    network = tiny_unet(0).requires_grad_(False)
    fake_score = FakeScore(network, settings)
    torch.manual_seed(1)
    for parameter in fake_score.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network, fake_score


def test_a_new_fake_score_is_the_teacher() -> None:
    network = tiny_unet(0)
    before = copy.deepcopy(network)
    fake_score = FakeScore(network, ALL)
    assert torch.equal(fake_score(X, T, TEXT).sample, before(X, T, TEXT).sample)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_row_sees_the_role_its_mask_says(dtype: torch.dtype) -> None:
    """In bfloat16 adapters are not merged into the weights, which would round them away."""
    network, fake_score = adapted()
    network.to(dtype)
    fake_score.to(dtype)
    x, text = X.to(dtype), TEXT.to(dtype)
    teacher, fake = network(x, T, text).sample, fake_score(x, T, text).sample
    assert (teacher - fake).abs().max() > 1e-3
    mixed = fake_score.mixed(MASK, x, T, text).sample
    torch.testing.assert_close(mixed, torch.stack([teacher[0], fake[1], teacher[2], fake[3]]))


def test_merged_adapters_are_the_published_update() -> None:
    """y = W x + (alpha / r) B A x, each product for itself; for a convolution with its window."""
    network, _ = adapted()
    layers = [layer for layer in network.modules() if isinstance(layer, AdaptedLayer)]
    assert {type(layer.layer) for layer in layers} == {nn.Linear, nn.Conv2d}
    for layer in layers:
        plain = layer.layer
        shape = (3, plain.in_features) if isinstance(plain, nn.Linear) else (3, plain.in_channels, 4, 4)
        x = torch.randn(shape, dtype=torch.float64)
        layer._gate.role = True
        torch.testing.assert_close(layer(x), plain(x) + 4 / 2 * layer.up(layer.down(x)))
        layer._gate.role = False


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_is_the_eager_one_in_every_role(backend: str) -> None:
    """A compiled network that has frozen a role in is wrong in silence; so roles come and go, twice."""
    network, fake_score = adapted()
    roles: list[Role] = [False, True, MASK, 1 - MASK]
    eager = [fake_score.mixed(role, X, T, TEXT).sample for role in roles]
    compile_blocks(network, backend=backend)
    for _ in range(2):
        for role, expected in zip(roles, eager, strict=True):
            torch.testing.assert_close(fake_score.mixed(role, X, T, TEXT).sample, expected)
    torch.testing.assert_close(network(X, T, TEXT).sample, eager[0])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_pixart_is_the_eager_one_in_every_role(backend: str) -> None:
    backbone = load_backbone(str(WEIGHTS / "pixart"))
    fake_score = FakeScore(backbone.network, LoraSettings(rank=2, alpha=4, targets=("all",)))
    for up in fake_score.up.parameters():
        nn.init.normal_(up, std=0.02)
    torch.manual_seed(1)
    prompts = conditioning(backbone, len(MASK), "cpu")
    x, t = torch.randn(len(MASK), *backbone.latent_shape), torch.tensor([1, 100, 400, 900])

    def predictions() -> list[Tensor]:
        roles: list[Role] = [False, True, MASK, 1 - MASK]
        return [backbone.predict(partial(fake_score.mixed, role), x, t, prompts) for role in roles]

    eager = predictions()
    assert not torch.allclose(eager[0], eager[1], rtol=1e-2)
    compile_blocks(backbone.network, backend=backend)
    for _ in range(2):
        for prediction, expected in zip(predictions(), eager, strict=True):
            torch.testing.assert_close(prediction, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", [None, "aot_eager_decomp_partition"])
@pytest.mark.parametrize("role", [True, MASK], ids=["fake score", "masked"])
def test_activations_that_are_computed_anew_are_in_the_role_of_their_time(
    role: Role, backend: str | None
) -> None:
    def gradients(prepare: Callable[[UNet2DConditionModel, FakeScore], None]) -> list[Tensor]:
        network, fake_score = adapted()
        prepare(network, fake_score)
        fake_score.mixed(role, X, T, TEXT).sample.square().mean().backward()
        return [p.grad for p in fake_score.parameters() if p.grad is not None]

    def checkpointing(network: UNet2DConditionModel, fake_score: FakeScore) -> None:
        if backend is None:
            network.enable_gradient_checkpointing(fake_score.recompute)
        else:
            compile_blocks(network, keep=False, backend=backend)
        network.train()

    plain, checkpointed = gradients(lambda *_: None), gradients(checkpointing)
    assert len(plain) == len(checkpointed) > 0
    torch.testing.assert_close(checkpointed, plain)


def test_only_the_named_layers_are_adapted() -> None:
    network = tiny_unet(0)
    FakeScore(network, LoraSettings(rank=2, alpha=4))
    adapted = [n for n, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    assert adapted and all(name.endswith(("to_q", "to_v")) for name in adapted)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no layer of UNet2DConditionModel is named"):
        FakeScore(tiny_unet(0), LoraSettings(targets=("to_qv",)))


@pytest.mark.parametrize("settings", [ALL, LoraSettings(rank=2, alpha=3)], ids=["all", "published"])
def test_peft_opens_what_is_exported(settings: LoraSettings, tmp_path: Path) -> None:
    _, fake_score = adapted(settings)
    export_peft(fake_score, tmp_path)
    theirs = PeftModel.from_pretrained(tiny_unet(0), tmp_path)
    torch.testing.assert_close(theirs(X, T, TEXT).sample, fake_score(X, T, TEXT).sample)
    with theirs.disable_adapter():
        torch.testing.assert_close(theirs(X, T, TEXT).sample, tiny_unet(0)(X, T, TEXT).sample)


def test_there_and_back_is_exact(tmp_path: Path) -> None:
    _, fake_score = adapted()
    export_peft(fake_score, tmp_path / "ours")
    PeftModel.from_pretrained(tiny_unet(0), tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    network = tiny_unet(0)
    again = FakeScore(network, ALL)
    import_peft(again, tmp_path / "theirs")
    for key, value in fake_score.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    _, fake_score = adapted()
    with pytest.raises(ValueError, match="no adapters in PEFT's format"):
        import_peft(fake_score, tmp_path)
    export_peft(fake_score, tmp_path)
    with pytest.raises(ValueError, match=r"rank and alpha are \(2, 4\), of the fake score \(3, 4\)"):
        import_peft(adapted(LoraSettings(rank=3, alpha=4, targets=("all",)))[1], tmp_path)
    with pytest.raises(ValueError, match="not of the same layers"):
        import_peft(adapted(LoraSettings(rank=2, alpha=4))[1], tmp_path)


def test_a_students_adapters_train_alone_and_are_merged_when_it_is_done() -> None:
    network = tiny_unet(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        plain = network(X, T, TEXT).sample
    adapt_student(network, ALL)
    torch.testing.assert_close(network(X, T, TEXT).sample, plain)
    network(X, T, TEXT).sample.square().mean().backward()
    trained = [name for name, p in network.named_parameters() if p.grad is not None]
    assert trained and all(".down." in name or ".up." in name for name in trained)
    for layer in (m for m in network.modules() if isinstance(m, AdaptedLayer)):
        torch.nn.init.normal_(layer.up.weight, std=0.2)
    with torch.no_grad():
        adapted = network(X, T, TEXT).sample
        merge_adapters(network)
        # In float32, as saved.
        torch.testing.assert_close(network.double()(X, T, TEXT).sample, adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - plain).abs().max() > 1e-3
    assert network.state_dict().keys() == before.keys()
