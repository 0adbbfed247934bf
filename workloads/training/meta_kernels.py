"""Kernels on torch's device "meta", evaluated once for each form of their arguments.

On this device torch finds the result's shape of many kernels in Python, which takes up to milliseconds. A
step calls the same kernels with arguments of the same forms many times, so results and operation counts are
cached by form.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import flop_counter

META = torch.device("meta")
_counter: Any = flop_counter
_aten: Any = torch.ops.aten


def _attention_operations(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(_counter.sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_operations(
    gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any
) -> int:
    shapes = (gradient.shape, query.shape, key.shape, value.shape)
    return int(_counter.sdpa_backward_flop_count(*shapes))


def _convolution_backward_operations(*args: Any, out_val: Any) -> int:
    """Count as torch does, but the gradient of the weights for convolutions in groups too.

    Torch takes all pairs of channels for it, also those of different groups.
    """
    inputs, (groups, (of_input, of_weights, _)) = args[:9], args[9:]
    count: Any = _counter.flop_registry[_aten.convolution_backward]
    of_inputs = count(*inputs, groups, (of_input, False, False), out_val=out_val)
    return int(of_inputs + count(*inputs, groups, (False, of_weights, False), out_val=out_val) // groups)


FORMULAS: dict[Any, Any] = {
    **_counter.flop_registry,
    _aten.convolution_backward: _convolution_backward_operations,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_operations,
}
"""Operation counts of kernels; torch's own table has only the attention kernels of GPUs."""
CACHED = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    _aten.add.Tensor,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.cat.default,
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.div.Tensor,
    _aten.gelu.default,
    _aten.gelu_backward.default,
    _aten.mm.default,
    _aten.mul.Tensor,
    _aten.native_group_norm.default,
    _aten.native_group_norm_backward.default,
    _aten.native_layer_norm.default,
    _aten.native_layer_norm_backward.default,
}
"""Kernels whose results are cached: each returns new tensors and changes none of its arguments."""


class Form(NamedTuple):
    """Properties of a meta tensor that determine a kernel's result."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """Return a new meta tensor of this form."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=META)


def call(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> tuple[Any, int]:
    """Return the result of a kernel, and the number of its operations (a multiply-add counts two)."""
    if func in CACHED and _all_meta((*args, *kwargs.values())):
        named = {name: _form(value) for name, value in kwargs.items()}
        form, operations = _evaluated(func, *_form(args), **named)
        return _empty(form), operations
    result = func(*args, **kwargs)
    return result, _operations(func, args, kwargs, result)


@lru_cache(maxsize=4096, typed=True)
def _evaluated(func: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Return the form of the result for arguments of these forms, and the number of operations."""
    inputs, named = _empty(args), {name: _empty(value) for name, value in kwargs.items()}
    result = func(*inputs, **named)
    return _form(result), _operations(func, inputs, named, result)


def _operations(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    formula = FORMULAS.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


def _all_meta(value: Any) -> bool:
    """Return true if no tensor in `value` is on another device, such as random numbers on the CPU."""
    if isinstance(value, Tensor):
        return value.device == META
    return not isinstance(value, list | tuple) or all(map(_all_meta, value))


def _form(value: Any) -> Any:
    """Return `value` with its tensors replaced by forms, and its lists by tuples."""
    if isinstance(value, Tensor):
        return Form(tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(_form, value)) if isinstance(value, list | tuple) else value


def _empty(form: Any) -> Any:
    """Return `form` with its forms replaced by new tensors."""
    if isinstance(form, Form):
        return form.empty()
    return tuple(map(_empty, form)) if isinstance(form, tuple) else form
