"""Transformer blocks of a network: compiled, or with activations recomputed in the backward pass.

The blocks do most of a network's arithmetic and are alike, so code compiled for one serves all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers.models.attention import BasicTransformerBlock, JointTransformerBlock
from diffusers.models.transformers.sana_transformer import SanaTransformerBlock
from diffusers.models.transformers.transformer_flux2 import (
    Flux2SingleTransformerBlock,
    Flux2TransformerBlock,
)
from diffusers.models.transformers.transformer_z_image import ZImageTransformerBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

Recompute = Callable[..., Any]
"""Function that calls a given module with given arguments, as `recompute` does."""
BLOCKS = (
    BasicTransformerBlock,
    SanaTransformerBlock,
    JointTransformerBlock,
    Flux2TransformerBlock,
    Flux2SingleTransformerBlock,
    ZImageTransformerBlock,
)
"""Classes of blocks: of UNets and PixArt, SANA, SD3, FLUX.2 (double and single) and Z-Image."""
RECOMPILE_LIMIT = 64
"""Graphs that torch may compile for one block's code before it runs the rest uncompiled.

There is one for each shape and role of a block: 17 in SD1.5, where torch's own limit is 8.
"""


def recompute(module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call `module` without keeping its activations; the backward pass calls it a second time."""
    return checkpoint(module, *args, use_reentrant=False, **kwargs)


def transformer_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the blocks in the network's order."""
    return [module for module in network.modules() if isinstance(module, BLOCKS)]


def compile_blocks(network: nn.Module, *, keep: bool = True, **options: Any) -> None:
    """Compile each block of `network` at its first call ("regional" compilation).

    The `compile_repeated_blocks` of diffusers 0.42.1 does not know PixArt's blocks.

    Args:
        network: The network whose blocks are compiled, in place.
        keep: Whether blocks keep their activations; otherwise the backward pass recomputes them. It
            applies to everything that this thread compiles from then on, and to no other thread.
        options: Further options of torch.compile.
    """
    import torch._functorch.config as functorch  # seconds

    # Global, as blocks are compiled at their first call. `region_activation_memory_budget` of torch 2.13
    # is local, but a prototype, and fails where a graph breaks within the block.
    functorch.activation_memory_budget = 1.0 if keep else 0.0
    for block in transformer_blocks(network):
        block.compile(dynamic=False, recompile_limit=RECOMPILE_LIMIT, **options)


def checkpoint_blocks(network: nn.Module, recompute_module: Recompute) -> None:
    """Make the blocks of `network` keep what `compile_blocks` without `keep` keeps; compile nothing."""
    for block in transformer_blocks(network):
        block.forward = partial(recompute_module, block.forward)
