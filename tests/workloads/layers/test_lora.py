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
from workloads.layers.adapted_layer import BASE, AdaptedLayer, Role, RowRoles
from workloads.layers.lora import AdapterSet, merged, recompute_in_role
from workloads.layers.transformer_blocks import compile_blocks
from workloads.miniature import WEIGHTS
from workloads.settings.train import LoraSettings

X = torch.randn(4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 200, 500, 900])
TEXT = torch.randn(4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ALL = LoraSettings(rank=2, alpha=4, targets=("all",))
ATTENTION = LoraSettings(rank=3, alpha=5)
"""Adapts fewer layers than `ALL`, by another rank and factor."""


def rows(*roles: int) -> RowRoles:
    return RowRoles(torch.tensor(roles), tuple(sorted(set(roles) - {BASE})))


MIXED = [rows(0, 1, 0, 1), rows(2, 0, 1, 1), rows(2, 2, 0, 0)]


def adapted(*settings: LoraSettings) -> tuple[UNet2DConditionModel, list[AdapterSet]]:
    """Return a frozen network with random adapter sets; by default a student's and a fake score's."""
    network = tiny_unet(0).requires_grad_(False)
    sets = [AdapterSet(network, each) for each in settings or (ATTENTION, ALL)]
    torch.manual_seed(1)
    for parameter in (p for each in sets for p in each.parameters()):
        nn.init.normal_(parameter, std=0.1)
    return network, sets


def test_new_adapters_change_nothing() -> None:
    network = tiny_unet(0)
    before = copy.deepcopy(network)
    student, fake_score = AdapterSet(network, ALL), AdapterSet(network, ATTENTION)
    assert (student.role, fake_score.role) == (1, 2)
    for module in (network, student, fake_score):
        assert torch.equal(module(X, T, TEXT).sample, before(X, T, TEXT).sample)


def test_each_set_is_a_network_of_its_own() -> None:
    """The sets on one network equal sets that are each alone on a copy of it."""
    network, sets = adapted()
    for each, settings in zip(sets, (ATTENTION, ALL), strict=True):
        alone = AdapterSet(tiny_unet(0), settings)
        alone.load_state_dict(each.state_dict())
        torch.testing.assert_close(each(X, T, TEXT).sample, alone(X, T, TEXT).sample)
    assert network.get_submodule("down_blocks.0.attentions.0.proj_in").adapters.keys() == {"2"}


@pytest.mark.parametrize("roles", MIXED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rows_of_a_call_have_their_own_roles(dtype: torch.dtype, roles: RowRoles) -> None:
    """In bfloat16, adapters are not merged into the weights, which would round them away."""
    network, sets = adapted()
    for module in (network, *sets):
        module.to(dtype)
    x, text = X.to(dtype), TEXT.to(dtype)
    alone = [module(x, T, text).sample for module in (network, *sets)]
    assert all((alone[a] - alone[b]).abs().max() > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))
    mixed = sets[0].call_in_role(roles, x, T, text).sample
    expected = torch.stack([alone[role][row] for row, role in enumerate(roles.rows.tolist())])
    torch.testing.assert_close(mixed, expected)


def test_adapters_match_published_update() -> None:
    """y = W x + (alpha / r) B A x, with separate products; for a convolution with its window."""
    network, (adapters,) = adapted(ALL)
    for name, adapter in adapters.adapters().items():
        layer = network.get_submodule(name)
        plain = layer.layer
        shape = (3, plain.in_features) if isinstance(plain, nn.Linear) else (3, plain.in_channels, 4, 4)
        x = torch.randn(shape, dtype=torch.float64)
        with adapters.active():
            torch.testing.assert_close(layer(x), plain(x) + 4 / 2 * adapter.up(adapter.down(x)))
    kinds = {type(network.get_submodule(name).layer) for name in adapters.adapters()}
    assert kinds == {nn.Linear, nn.Conv2d}


ROLES: list[Role] = [0, 1, 2, *MIXED]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_unet_equals_eager_in_every_role(backend: str) -> None:
    """A network compiled for one role would be wrong without an error; so each role is used twice."""
    network, (student, _) = adapted()
    eager = [student.call_in_role(role, X, T, TEXT).sample for role in ROLES]
    compile_blocks(network, backend=backend)
    for _ in range(2):
        for role, expected in zip(ROLES, eager, strict=True):
            torch.testing.assert_close(student.call_in_role(role, X, T, TEXT).sample, expected)
    torch.testing.assert_close(network(X, T, TEXT).sample, eager[0])


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_pixart_equals_eager_in_every_role(backend: str) -> None:
    backbone = load_backbone(str(WEIGHTS / "pixart"))
    sets = [AdapterSet(backbone.network, each) for each in (ATTENTION, ALL)]
    for up in (up for each in sets for up in each.up.parameters()):
        nn.init.normal_(up, std=0.02)
    torch.manual_seed(1)
    prompts = conditioning(backbone, 4, "cpu")
    x, t = torch.randn(4, *backbone.latent_shape), torch.tensor([1, 100, 400, 900])

    def predictions() -> list[Tensor]:
        return [backbone.predict(partial(sets[0].call_in_role, role), x, t, prompts) for role in ROLES]

    eager = predictions()
    assert not torch.allclose(eager[0], eager[2], rtol=1e-2)
    compile_blocks(backbone.network, backend=backend)
    for _ in range(2):
        for prediction, expected in zip(predictions(), eager, strict=True):
            torch.testing.assert_close(prediction, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", [None, "aot_eager_decomp_partition"])
@pytest.mark.parametrize("role", [1, 2, MIXED[1]], ids=["student", "fake score", "mixed"])
def test_recomputed_activations_keep_their_role(role: Role, backend: str | None) -> None:
    def gradients(prepare: Callable[[UNet2DConditionModel], None]) -> list[Tensor]:
        network, sets = adapted()
        prepare(network)
        sets[0].call_in_role(role, X, T, TEXT).sample.square().mean().backward()
        return [p.grad for each in sets for p in each.parameters() if p.grad is not None]

    def checkpointing(network: UNet2DConditionModel) -> None:
        if backend is None:
            network.enable_gradient_checkpointing(recompute_in_role(network))
        else:
            compile_blocks(network, keep=False, backend=backend)
        network.train()

    plain, checkpointed = gradients(lambda _: None), gradients(checkpointing)
    assert len(plain) == len(checkpointed) > 0
    torch.testing.assert_close(checkpointed, plain)


def test_only_target_layers_are_adapted() -> None:
    network = tiny_unet(0)
    AdapterSet(network, LoraSettings(rank=2, alpha=4))
    adapted = [n for n, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    assert adapted and all(name.endswith(("to_q", "to_v")) for name in adapted)


def test_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer of UNet2DConditionModel is named"):
        AdapterSet(tiny_unet(0), LoraSettings(targets=("to_qv",)))


@pytest.mark.parametrize("number", [0, 1])
def test_a_call_trains_the_adapters_of_its_set_alone(number: int) -> None:
    network, sets = adapted()
    sets[number](X, T, TEXT).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in sets[number].parameters())
    assert all(parameter.grad is None for parameter in sets[1 - number].parameters())
    layers = [layer.layer for layer in network.modules() if isinstance(layer, AdaptedLayer)]
    assert layers and all(layer.weight.grad is None for layer in layers)


def test_a_merged_set_is_a_plain_network() -> None:
    """In float32, as saved; adapters of the other set are left out, and the shared network is unchanged."""
    network, sets = adapted()
    with torch.no_grad():
        before = [module(X, T, TEXT).sample for module in (*sets, network)]
        for module, expected in zip((*sets, network), before, strict=True):
            plain = merged(module)
            assert plain.state_dict().keys() == tiny_unet(0).state_dict().keys()
            torch.testing.assert_close(plain.double()(X, T, TEXT).sample, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(network(X, T, TEXT).sample, before[-1])


def test_guidance_scales_reach_the_rows_of_their_own_set_alone() -> None:
    """The teacher and other sets stay as they are, bit for bit, also within a call of mixed rows."""
    torch.manual_seed(0)
    network = tiny_unet(0).requires_grad_(False)
    plain, reading = AdapterSet(network, ATTENTION), AdapterSet(network, ALL, neutral_scale=2.0)
    for parameter in (p for each in (plain, reading) for p in each.parameters()):
        nn.init.normal_(parameter, std=0.2)
    scale = torch.full((len(X),), 5.0, dtype=X.dtype)
    for role in (0, plain.role):
        told = reading.call_in_role(role, X, T, TEXT, guidance_scale=scale).sample
        assert torch.equal(told, reading.call_in_role(role, X, T, TEXT).sample)
    neutral, far = (reading(X, T, TEXT, guidance_scale=at).sample for at in (scale * 0.4, scale))
    torch.testing.assert_close(neutral, reading(X, T, TEXT).sample)
    assert (far - neutral).abs().mean() > 1e-3
    rows = torch.arange(len(X)) % 2 * reading.role
    mixed = reading.call_in_role(RowRoles(rows, (reading.role,)), X, T, TEXT, guidance_scale=scale).sample
    torch.testing.assert_close(mixed[1::2], far[1::2])
    torch.testing.assert_close(mixed[::2], network(X, T, TEXT).sample[::2])
