"""The transformer blocks of a network: compiled, or computed again in the backward pass, not kept.

They are most of a network's arithmetic and are alike, so that what is compiled for one serves all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers.models.attention import BasicTransformerBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

Recompute = Callable[..., Any]
"""Calls the module that it is given, as `recompute` does."""
GRAPHS = 64
"""That torch may compile of one block's code before it gives up and leaves the rest as it is."""


def recompute(module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `module` returns; its activations are not kept: the backward pass calls it again."""
    return checkpoint(module, *args, use_reentrant=False, **kwargs)


def transformer_blocks(network: nn.Module) -> list[BasicTransformerBlock]:
    """In the network's order; a UNet's and PixArt's are of the same class."""
    return [module for module in network.modules() if isinstance(module, BasicTransformerBlock)]


def compile_blocks(network: nn.Module, *, keep: bool = True, **options: Any) -> None:
    """Has the blocks of `network` compiled at their first call ("regional" compilation).

    diffusers' own `compile_repeated_blocks` knows no block of PixArt. `options` are torch.compile's.

    Args:
        keep: whether they keep their activations; if not, the backward pass computes them again.
            Holds for all that this thread compiles from then on; another one is told nothing of it.
    """
    import torch._dynamo.config as dynamo  # seconds
    import torch._functorch.config as functorch

    functorch.activation_memory_budget = 1.0 if keep else 0.0
    # One for each shape and role of a block: 17 in SD1.5, where torch's own limit is 8.
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS)
    for block in transformer_blocks(network):
        block.compile(dynamic=False, **options)


def checkpoint_blocks(network: nn.Module, again: Recompute) -> None:
    """Has the blocks of `network` keep what compiled ones keep without `keep`, where none can be compiled."""
    for block in transformer_blocks(network):
        block.forward = partial(again, block.forward)
