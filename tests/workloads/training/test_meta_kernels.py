"""Counted operations of convolutions in groups, whose gradients torch's own counter overcounts."""

import pytest
import torch
from torch import nn

from workloads.training.meta_counter import MemoryCounter
from workloads.training.meta_kernels import META

SIZE, CHANNELS, BATCH, WINDOW = 5, 8, 2, 9


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
def test_each_of_three_products_of_a_convolution_counts_alike(groups: int) -> None:
    """Output, gradient of the inputs and gradient of the weights take the same multiplications."""
    with MemoryCounter() as counter:
        layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=groups, bias=False, device=META)
        x = torch.empty(BATCH, CHANNELS, SIZE, SIZE, device=META, requires_grad=True)
        counter.operations = 0
        layer(x).sum().backward()
    product = 2 * BATCH * SIZE * SIZE * CHANNELS * (CHANNELS // groups) * WINDOW
    assert counter.operations == 3 * product
