import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tests.workloads.backbones.architectures import conditioning
from tests.workloads.objectives.test_pgsb import tiny_unet
from workloads.backbones.backbone import load_backbone
from workloads.layers.lora import AdaptedLayer, FakeScore, Role, adapt_student, merge_adapters
from workloads.layers.transformer_blocks import compile_blocks
from workloads.miniature import WEIGHTS
from workloads.settings.train import LoraSettings

X = torch.randn(4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 200, 500, 900])
TEXT = torch.randn(4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([0.0, 1.0, 0.0, 1.0])
ALL = LoraSettings(rank=2, alpha=4, targets=("all",))


def adapted(settings: LoraSettings = ALL) -> tuple[UNet2DConditionModel, FakeScore]:
    """Return a teacher, and a fake score on it with random adapters."""
    network = tiny_unet(0).requires_grad_(False)
    fake_score = FakeScore(network, settings)
    torch.manual_seed(1)
    for parameter in fake_score.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network, fake_score


def test_new_fake_score_equals_teacher() -> None:
    network = tiny_unet(0)
    before = copy.deepcopy(network)
    fake_score = FakeScore(network, ALL)
    assert torch.equal(fake_score(X, T, TEXT).sample, before(X, T, TEXT).sample)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mask_selects_role_per_row(dtype: torch.dtype) -> None:
    """In bfloat16, adapters are not merged into the weights, which would round them away."""
    network, fake_score = adapted()
    network.to(dtype)
    fake_score.to(dtype)
    x, text = X.to(dtype), TEXT.to(dtype)
    teacher, fake = network(x, T, text).sample, fake_score(x, T, text).sample
    assert (teacher - fake).abs().max() > 1e-3
    mixed = fake_score.call_in_role(MASK, x, T, text).sample
    torch.testing.assert_close(mixed, torch.stack([teacher[0], fake[1], teacher[2], fake[3]]))


def test_merged_adapters_match_published_update() -> None:
    """y = W x + (alpha / r) B A x, with separate products; for a convolution with its window."""
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
def test_compiled_unet_equals_eager_in_every_role(backend: str) -> None:
    """A network compiled for one role would be wrong without an error; so each role is used twice."""
    network, fake_score = adapted()
    roles: list[Role] = [False, True, MASK, 1 - MASK]
    eager = [fake_score.call_in_role(role, X, T, TEXT).sample for role in roles]
    compile_blocks(network, backend=backend)
    for _ in range(2):
        for role, expected in zip(roles, eager, strict=True):
            torch.testing.assert_close(fake_score.call_in_role(role, X, T, TEXT).sample, expected)
    torch.testing.assert_close(network(X, T, TEXT).sample, eager[0])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_pixart_equals_eager_in_every_role(backend: str) -> None:
    backbone = load_backbone(str(WEIGHTS / "pixart"))
    fake_score = FakeScore(backbone.network, LoraSettings(rank=2, alpha=4, targets=("all",)))
    for up in fake_score.up.parameters():
        nn.init.normal_(up, std=0.02)
    torch.manual_seed(1)
    prompts = conditioning(backbone, len(MASK), "cpu")
    x, t = torch.randn(len(MASK), *backbone.latent_shape), torch.tensor([1, 100, 400, 900])

    def predictions() -> list[Tensor]:
        roles: list[Role] = [False, True, MASK, 1 - MASK]
        return [backbone.predict(partial(fake_score.call_in_role, role), x, t, prompts) for role in roles]

    eager = predictions()
    assert not torch.allclose(eager[0], eager[1], rtol=1e-2)
    compile_blocks(backbone.network, backend=backend)
    for _ in range(2):
        for prediction, expected in zip(predictions(), eager, strict=True):
            torch.testing.assert_close(prediction, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", [None, "aot_eager_decomp_partition"])
@pytest.mark.parametrize("role", [True, MASK], ids=["fake score", "masked"])
def test_recomputed_activations_keep_their_role(role: Role, backend: str | None) -> None:
    def gradients(prepare: Callable[[UNet2DConditionModel, FakeScore], None]) -> list[Tensor]:
        network, fake_score = adapted()
        prepare(network, fake_score)
        fake_score.call_in_role(role, X, T, TEXT).sample.square().mean().backward()
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


def test_only_target_layers_are_adapted() -> None:
    network = tiny_unet(0)
    FakeScore(network, LoraSettings(rank=2, alpha=4))
    adapted = [n for n, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    assert adapted and all(name.endswith(("to_q", "to_v")) for name in adapted)


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer of UNet2DConditionModel is named"):
        FakeScore(tiny_unet(0), LoraSettings(targets=("to_qv",)))


def test_student_adapters_train_and_merge() -> None:
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
