"""Sets of LoRA adapters on one frozen network, which serves as teacher, fake score and student.

Each call of the network has a role: 0 is the frozen network itself, j is the network with its adapter set j.
A call may also mix rows of different roles. Adapters are selected by this role and never removed, so a
compiled network reads the role in every call instead of keeping that of its first.

`AdapterSet` adds one set to a network; `merged` turns a network and one set into plain weights.

Shapes: B batch, C latent channels, H latent size.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from workloads.layers.adapted_layer import BASE, AdaptedLayer, Adapter, Gate, Role, RowRoles, is_adaptable
from workloads.layers.guidance_input import GuidanceConditioned, GuidanceEmbedding
from workloads.layers.transformer_blocks import Recompute, recompute
from workloads.settings.train import LoraSettings

ALL = "all"
"""Target that stands for every linear and convolution layer, but for convolutions in groups: those have no
update of low rank across their channels."""
SEPARATOR = "/"
"""Replacement for the dots in a layer's name, which the keys of a ModuleDict must not contain."""


class AdapterSet(nn.Module):
    """One set of adapters as a module of its own, called like the network that it adapts.

    The frozen network is not a submodule, so an engine around this module moves, averages, saves and
    restores only the adapters.
    """

    def __init__(
        self, network: nn.Module, settings: LoraSettings, neutral_scale: float | None = None
    ) -> None:
        """Add adapters to the target layers of `network`, in place.

        Args:
            network: the frozen network.
            settings: rank and targets.
            neutral_scale: makes this set's calls read guidance scales, of which this one changes nothing;
                those of other roles do not.

        Raises:
            ValueError: No layer of the network has a target's name.
        """
        super().__init__()
        layers = _target_layers(network, settings)
        self._gate = _gate_of(network)
        self._gate.sets += 1
        self.role = self._gate.sets
        """Number of this set, from 1."""
        # A submodule would be registered: see the class.
        self._network = (network,)
        adapted = {name: self._adapt(name, layer, settings) for name, layer in layers.items()}
        keys = {name: name.replace(".", SEPARATOR) for name in adapted}
        self.down = nn.ModuleDict({keys[name]: adapter.down for name, adapter in adapted.items()})
        self.up = nn.ModuleDict({keys[name]: adapter.up for name, adapter in adapted.items()})
        self.guidance = None if neutral_scale is None else GuidanceEmbedding.of(network, neutral_scale)
        self.requires_grad_(True)

    @property
    def network(self) -> nn.Module:
        """The network that the adapters are in."""
        return self._network[0]

    def forward(self, latents: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the network with these adapters on `latents` (B, C, H, H); return the network's own output."""
        return self.call_in_role(self.role, latents, *args, **kwargs)

    def call_in_role(
        self,
        role: Role,
        latents: Tensor,
        *args: Any,
        guidance_scale: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the network on `latents` (B, C, H, H), each row in its role; return its own output.

        Guidance scales (B,) reach the rows of this set's own role, if it has a guidance embedding.
        """
        with _in_role(self._gate, role), self._at_scale(role, guidance_scale):
            return self.network(latents, *args, **kwargs)

    def _at_scale(self, role: Role, scale: Tensor | None) -> AbstractContextManager[None]:
        mixed = isinstance(role, RowRoles)
        if scale is None or self.guidance is None or not (mixed or role == self.role):
            return nullcontext()
        rows = role.rows == self.role if isinstance(role, RowRoles) else None
        return self.guidance.added(self.network, scale, rows)

    def adapters(self) -> dict[str, Adapter]:
        """Return the adapters by the name of their layer in the network."""
        found = ((name, layer.adapter(self.role)) for name, layer in _adapted_layers(self.network))
        return {name: adapter for name, adapter in found if adapter is not None}

    def active(self) -> AbstractContextManager[None]:
        """Return a context in which layers of the network, called directly, have these adapters."""
        return _in_role(self._gate, self.role)

    def _adapt(self, name: str, layer: nn.Module, settings: LoraSettings) -> Adapter:
        """Add an adapter to the layer called `name`, which may have those of other sets already."""
        if not isinstance(layer, AdaptedLayer):
            assert is_adaptable(layer)
            layer = AdaptedLayer(layer, self._gate)
            self.network.set_submodule(name, layer)
        adapter = Adapter(layer.layer, settings).to(layer.weight)
        layer.adapters[str(self.role)] = adapter
        return adapter


def network_of(module: nn.Module) -> nn.Module:
    """Return the diffusers network of a teacher, of a whole student or of an adapter set."""
    return module.network if isinstance(module, AdapterSet | GuidanceConditioned) else module


def active(module: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which layers of `network_of(module)`, called directly, work as `module` does."""
    return module.active() if isinstance(module, AdapterSet) else nullcontext()


def recompute_in_role(network: nn.Module) -> Recompute:
    """Return `transformer_blocks.recompute` for modules of `network`, with both calls in the same role."""
    gate = _gate_of(network)

    def call_twice(module: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        role = gate.role

        def call_in_same_role(*inputs: Any, **named: Any) -> Any:
            with _in_role(gate, role):
                return module(*inputs, **named)

        return recompute(call_in_same_role, *args, **kwargs)

    return call_twice


@torch.no_grad()
def merged(module: nn.Module) -> nn.Module:
    """Return a copy of the network of `module` with plain layers, in float32.

    An adapter set is merged into the weights. Adapters of other sets are left out.
    """
    role = module.role if isinstance(module, AdapterSet) else BASE
    network = copy.deepcopy(network_of(module)).float()
    for name, layer in _adapted_layers(network):
        adapter = layer.adapter(role)
        if adapter is not None:
            layer.layer.weight = nn.Parameter(adapter.merged_weight(layer.layer.weight))
        network.set_submodule(name, layer.layer)
    return network


def _gate_of(network: nn.Module) -> Gate:
    """Return the gate that the adapters of `network` share; a new one for a network without any."""
    return next((layer.gate for _, layer in _adapted_layers(network)), Gate())


def _adapted_layers(network: nn.Module) -> list[tuple[str, AdaptedLayer]]:
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, AdaptedLayer)]


def _target_layers(network: nn.Module, settings: LoraSettings) -> dict[str, nn.Module]:
    """Return the layers to adapt by name: plain ones, and those that other sets adapt already."""
    within = {id(part) for _, layer in _adapted_layers(network) for part in list(layer.modules())[1:]}
    found: dict[str, nn.Module] = {
        name: layer
        for name, layer in network.named_modules()
        if id(layer) not in within
        and (isinstance(layer, AdaptedLayer) or is_adaptable(layer))
        and _is_target(name, settings.targets)
    }
    if not found:
        raise ValueError(
            f"no layer of {type(network).__name__} is named {settings.targets}: "
            f"give targets that end the names of its layers, or [all]"
        )
    return found


@contextmanager
def _in_role(gate: Gate, role: Role) -> Iterator[None]:
    before, gate.role = gate.role, role
    try:
        yield
    finally:
        gate.role = before


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return ALL in targets or any(name == t or name.endswith("." + t) for t in targets)
