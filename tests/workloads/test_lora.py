import copy

import pytest
import torch

from tests.workloads.test_pgsb import tiny_unet
from workloads.lora import AdaptedLayer, FakeScore
from workloads.settings import LoraSettings

X = torch.randn(4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([10, 200, 500, 900])
TEXT = torch.randn(4, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_new_fake_score_is_the_teacher() -> None:
    network = tiny_unet(0)
    before = copy.deepcopy(network)
    fake_score = FakeScore(network, LoraSettings(rank=2, alpha=4, targets=("all",)))
    assert torch.equal(fake_score(X, T, TEXT).sample, before(X, T, TEXT).sample)


def test_each_row_sees_the_role_its_mask_says() -> None:
    network = tiny_unet(0)
    fake_score = FakeScore(network, LoraSettings(rank=2, alpha=4, targets=("all",)))
    for parameter in fake_score.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    teacher, fake = network(X, T, TEXT).sample, fake_score(X, T, TEXT).sample
    assert (teacher - fake).abs().max() > 1e-3
    mixed = fake_score.mixed(torch.tensor([0.0, 1.0, 0.0, 1.0]), X, T, TEXT).sample
    torch.testing.assert_close(mixed, torch.stack([teacher[0], fake[1], teacher[2], fake[3]]))


def test_only_the_named_layers_are_adapted() -> None:
    network = tiny_unet(0)
    FakeScore(network, LoraSettings(rank=2, alpha=4))
    adapted = [n for n, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]
    assert adapted and all(name.endswith(("to_q", "to_v")) for name in adapted)


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no layer of UNet2DConditionModel is named"):
        FakeScore(tiny_unet(0), LoraSettings(targets=("to_qv",)))
