"""Terms: losses that are added to the student's loss of an objective, with networks of their own if need be.

    objective's update of the student: loss + sum of (weight * term)   -> student
    term's own updates, with the student's latents                     -> the term's network

`WithTerms` is an objective made of another and its terms. A term that reads a network which it trains itself,
such as a discriminator, lends it: while the student's loss is back-propagated the network's parameters are
frozen, so that no gradient is left in them.

Shapes: B batch, C latent channels, H latent size.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from workloads.backbones.network_calls import Network
from workloads.objectives.base import STUDENT, Auxiliary, Objective, StepDraws, Update
from workloads.objectives.batch import Batch

TermDrawsT = TypeVar("TermDrawsT", bound=StepDraws)


@dataclass(frozen=True)
class NoDraws:
    """The random numbers of a term that draws none."""

    def __getitem__(self, rows: slice) -> "NoDraws":
        return self


@dataclass(frozen=True)
class TermInputs(Generic[TermDrawsT]):
    """What a term is computed from in one step."""

    networks: Mapping[str, Network]
    """Student and auxiliary networks by name, or engines around them."""
    batch: Batch
    draws: TermDrawsT
    """This worker's B rows of what `Term.draw` returned."""
    step: int
    """Number of the step, from 1."""


class Term(ABC, Generic[TermDrawsT]):
    """A loss that is added to the student's."""

    name: str
    """Name of the metric that records the term's value, without its weight."""
    metric_names: tuple[str, ...] = ()
    """Further metrics of the term's own updates."""

    def __init__(self) -> None:
        self.auxiliary: Mapping[str, Auxiliary] = {}
        """Networks that the term trains, by name."""
        self.columns: Mapping[str, int] = {}
        """Names and widths of the columns that it reads from `Batch.columns`."""

    def draw(self, batch: int, generator: torch.Generator) -> Any:
        """Draw every random number of a step for a global batch of `batch` samples."""
        return NoDraws()

    @abstractmethod
    def weight(self, step: int) -> float:
        """Return the factor on the term at step number `step` (from 1); at 0 the term is not computed."""

    @abstractmethod
    def loss(self, latents: Tensor, inputs: TermInputs[TermDrawsT]) -> Tensor:
        """Return the term (scalar) of the student's latents x_0 (B, C, H, H), with gradient."""

    def updates(self, latents: Tensor, inputs: TermInputs[TermDrawsT]) -> Iterator[Update]:
        """Yield the updates of the term's own networks, given the student's latents x_0 without gradient."""
        yield from ()


@dataclass(frozen=True)
class TermedDraws:
    """Random numbers of an objective and of its terms."""

    objective: Any
    terms: tuple[Any, ...]

    def __getitem__(self, rows: slice) -> "TermedDraws":
        return TermedDraws(self.objective[rows], tuple(term[rows] for term in self.terms))


class WithTerms(Objective[TermedDraws]):
    """An objective whose student update has latents, with terms added to the student's loss."""

    def __init__(self, objective: Objective[Any], terms: Sequence[Term[Any]]) -> None:
        super().__init__(objective.backbone)
        self.objective, self.terms = objective, tuple(terms)
        self.auxiliary = {**objective.auxiliary}
        self.columns = {**objective.columns}
        names = list(objective.metric_names)
        for term in self.terms:
            self.auxiliary |= term.auxiliary
            self.columns |= term.columns
            names += [term.name, *term.metric_names, *(f"{name}_loss" for name in term.auxiliary)]
        self.metric_names = tuple(names)
        # Recorded at steps without a term too, so that means over steps do not depend on its interval.
        self._last: dict[str, Tensor] = {}

    def draw(self, batch: int, generator: torch.Generator) -> TermedDraws:
        drawn = self.objective.draw(batch, generator)
        return TermedDraws(drawn, tuple(term.draw(batch, generator) for term in self.terms))

    def prepare(self, batch: Batch) -> Batch:
        return self.objective.prepare(batch)

    def updates(
        self, networks: Mapping[str, Network], batch: Batch, draws: TermedDraws, step: int
    ) -> Iterator[Update]:
        inputs = [
            (term, TermInputs(networks, batch, drawn, step))
            for term, drawn in zip(self.terms, draws.terms, strict=True)
        ]
        for update in self.objective.updates(networks, batch, draws.objective, step):
            if update.network != STUDENT:
                yield update
                continue
            assert update.latents is not None, "terms need the student's latents"
            with ExitStack() as lent:
                for name in (name for term in self.terms for name in term.auxiliary):
                    lent.enter_context(frozen(networks[name]))
                yield self._add(update, update.latents, inputs)
            latents = update.latents.detach()
            for term, given in inputs:
                yield from term.updates(latents, given)

    def _add(
        self, update: Update, latents: Tensor, inputs: Sequence[tuple[Term[Any], TermInputs[Any]]]
    ) -> Update:
        loss = update.loss
        for term, given in inputs:
            if weight := term.weight(given.step):
                value = term.loss(latents, given)
                loss, self._last[term.name] = loss + weight * value, value.detach()
            self._last.setdefault(term.name, torch.zeros_like(loss.detach()))
        return replace(update, loss=loss, metrics={**update.metrics, **self._last})


@contextmanager
def frozen(network: Any) -> Iterator[None]:
    """Freeze the parameters of a network, or of the network in an engine, within a with-block."""
    module: nn.Module = getattr(network, "module", network)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
