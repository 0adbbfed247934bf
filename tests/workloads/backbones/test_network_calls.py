"""Networks get the inputs that their family's stock pipeline gives them, and their outputs mean the same."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from tests.support.flow_layouts import FLOW_FAMILIES
from workloads.backbones.backbone import load_backbone
from workloads.backbones.network_calls import Inputs
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.teacher_pipeline import call_arguments

PROMPTS = ["A large RED circle", "a tiny blue square on a white background"]
STEPS = 3


class Recorded:
    """A stock pipeline whose calls of the network and steps of the scheduler are recorded."""

    def __init__(self, folder: Path) -> None:
        self.pipeline: Any = DiffusionPipeline.from_pretrained(folder)
        self.pipeline.set_progress_bar_config(disable=True)
        self.network = self.pipeline.transformer
        self.calls: list[dict[str, Any]] = []
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.network.register_forward_pre_hook(self._call, with_kwargs=True)
        self._step, self.pipeline.scheduler.step = self.pipeline.scheduler.step, self._record_step

    def _call(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = inspect.signature(network.forward).bind(*args, **kwargs).arguments
        self.calls.append({name: value for name, value in bound.items() if value is not None})

    def _record_step(self, output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        self.steps.append((output, timestep, sample))
        return self._step(output, timestep, sample, **options)


def latents_of(sample: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the latents (B, C, H, H) of a stock pipeline's sample, which FLUX.2 has as (B, H H, C)."""
    return sample if sample.dim() == 4 else sample.transpose(1, 2).reshape(-1, *shape)


def compare(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            compare(one, other)
    elif isinstance(theirs, Tensor):
        # FLUX.2's positions are given for one sample; its pipeline repeats them for each.
        theirs = theirs[0] if theirs.dim() > ours.dim() else theirs
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-6, rtol=0)
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", FLOW_FAMILIES)
@torch.no_grad()
def test_inputs_and_outputs_are_those_of_the_stock_pipeline(name: str, tmp_path: Path) -> None:
    FLOW_FAMILIES[name](tmp_path)
    stock, backbone = Recorded(tmp_path), load_backbone(str(tmp_path))
    stock.pipeline(
        prompt=list(PROMPTS),  # ZImagePipeline changes the list
        num_inference_steps=STEPS,
        guidance_scale=backbone.family.neutral_guidance,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **call_arguments(stock.pipeline),
    )
    prompts, pixels = (
        TextEncoder(str(tmp_path)).encode(PROMPTS),
        backbone.latent_shape[-1] * backbone.latent_scale,
    )
    assert len(stock.calls) == len(stock.steps) == STEPS
    for call, (output, timestep, sample) in zip(list(stock.calls), list(stock.steps), strict=True):
        latents = latents_of(sample, backbone.latent_shape)
        inputs = Inputs(latents, timestep.expand(2), prompts, pixels)
        ours = backbone.kind.call(stock.network, backbone.network, inputs)[:, : len(latents[0])]
        torch.testing.assert_close(ours, latents_of(output, backbone.latent_shape), atol=1e-6, rtol=0)
        made = stock.calls[-1]
        assert made.keys() == {key: value for key, value in call.items() if key not in ("guidance",)}.keys()
        for key, value in call.items():
            compare(made[key], value)


@pytest.mark.parametrize("name", FLOW_FAMILIES)
@torch.no_grad()
def test_every_input_affects_the_output(name: str, tmp_path: Path) -> None:
    FLOW_FAMILIES[name](tmp_path)
    backbone, prompts = load_backbone(str(tmp_path)), TextEncoder(str(tmp_path)).encode(PROMPTS)
    latents = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    time = torch.tensor([500, 700])
    plain = backbone.predict(backbone.network, latents, time, prompts)
    others = [
        backbone.predict(backbone.network, latents.flip(-1), time, prompts).flip(-1),
        backbone.predict(backbone.network, latents, time.flip(0), prompts),
        backbone.predict(backbone.network, latents, time, prompts.select(torch.tensor([1, 0]))),
    ]
    assert plain.shape == latents.shape
    assert all((other - plain).abs().max() > 1e-5 for other in others)
    alone = backbone.predict(backbone.network, latents[1:], time[1:], prompts[1:])
    torch.testing.assert_close(alone, plain[1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_of_z_image_affects_nothing(tmp_path: Path) -> None:
    FLOW_FAMILIES["z-image"](tmp_path)
    backbone, prompts = load_backbone(str(tmp_path)), TextEncoder(str(tmp_path)).encode(PROMPTS)
    latents = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    assert prompts.mask is not None
    padding = ~prompts.mask.bool()
    prompts.embeddings[padding] += 1.0
    changed = backbone.predict(backbone.network, latents, torch.tensor([500, 500]), prompts)
    prompts.embeddings[padding] -= 1.0
    plain = backbone.predict(backbone.network, latents, torch.tensor([500, 500]), prompts)
    assert torch.equal(changed, plain) and padding.any()
