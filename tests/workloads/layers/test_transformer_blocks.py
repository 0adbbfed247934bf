"""Compiled blocks: none falls back to eager mode, and recomputation saves memory."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from tests.workloads.backbones import architectures
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.layers.transformer_blocks import compile_blocks
from workloads.miniature import TEACHERS, WEIGHTS
from workloads.objectives.batch import Batch
from workloads.objectives.pgsb import PGSB
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.students.student import new_student
from workloads.training.step import each_network, make_engines, train_step

PARTITIONED = "aot_eager_decomp_partition"
"""Backend that selects kept activations as the default backend does, and compiles nothing."""


def narrow(name: str) -> Backbone:
    """Build a published UNet with a tenth of its channels, for latents of 16 x 16."""
    backbone = architectures.build(name)
    config = dict(backbone.config)
    channels = [width // 10 for width in config["block_out_channels"]]
    config |= {"block_out_channels": channels, "norm_num_groups": 8, "sample_size": 16}
    network: nn.Module = UNet2DConditionModel.from_config(config)
    return replace(backbone, network=network.requires_grad_(False).eval())


@pytest.mark.parametrize("name", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
@pytest.mark.heavy
def test_no_block_exceeds_recompile_limit(name: str) -> None:
    """Beyond the limit torch only warns, and the rest of the training runs uncompiled."""
    torch.manual_seed(0)
    backbone, train = narrow(name), PGSBSettings(batch_size=2)
    student = new_student(backbone)
    objective = PGSB(backbone, architectures.conditioning(backbone, 1, "cpu"), train)
    for network, _ in each_network(student, objective):
        compile_blocks(network, backend="eager")
    torch._dynamo.reset()
    prompts = architectures.conditioning(backbone, 2, "cpu")
    draws = objective.draw(2, torch.Generator().manual_seed(0))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        losses = train_step(objective, make_engines(student, objective, train), Batch(prompts), draws)
    assert losses.isfinite().all()


def kept(network: nn.Module, backbone: Backbone) -> tuple[int, list[Tensor]]:
    """Return the bytes kept for the backward pass, weights excluded, and the gradients."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    prompts = architectures.conditioning(backbone, 4, "cpu")
    noise = torch.randn(4, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        latents = backbone.one_step(network, noise, prompts)
    latents.square().mean().backward()  # type: ignore[no-untyped-call]
    return sum(found.values()), [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", TEACHERS)
def test_recomputation_saves_memory(name: str) -> None:
    backbone = load_backbone(str(WEIGHTS / name))
    torch.manual_seed(0)
    plain, compiled = new_student(backbone), new_student(backbone)
    compile_blocks(compiled, keep=False, backend=PARTITIONED)
    torch._dynamo.reset()
    (most, expected), (least, found) = kept(plain, backbone), kept(compiled, backbone)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert least < 0.8 * most
