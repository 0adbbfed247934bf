"""The loops that the step's benchmark compares, behind one face, and what they are given."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from tests.benchmarks.restated import RestatedLoop, ThreeNetworks
from tests.workloads.backbones.architectures import NAMES, build, conditioning
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.lora import SEPARATOR
from workloads.miniature import WEIGHTS
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.pgsb import FAKE_SCORE, PGSB
from workloads.objectives.pgsb_draws import PGSBDraws
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import LoraSettings, StepSettings
from workloads.students.student import new_student
from workloads.training.step import apply_settings, make_engines, train_step

START = {"unet-epsilon": 300, "unet-v": 500, "pixart": 400}
LINEAR = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out", "time_emb_proj")
LORA = {
    "pixart": LoraSettings(16, 16, ("all",)),
    "unet-epsilon": LoraSettings(16, 16, LINEAR),
    "unet-v": LoraSettings(16, 16, LINEAR),
}
"""As in the shipped sweep; other backbones have the published adapter."""


MINIATURE, MINIATURE_TOKENS = 8, 16
"""Latent size of the shipped teachers, and the length to which their prompts are padded."""
PUBLISHED = NAMES
DEFAULT = StepSettings()
LEARNT = 0.01
"""Standard deviation of the adapters' upper weights: teacher and fake score differ from the first step."""


class Bench:
    """One backbone, its settings, and the batch and random numbers of the current step."""

    def __init__(
        self, open_backbone: Callable[[], Backbone], train: PGSBSettings, step: StepSettings
    ) -> None:
        """`open_backbone` loads the same weights, anew, each time; `step`: how our own step computes."""
        self.open_backbone, self.train, self.step = open_backbone, train, step
        backbone = open_backbone()
        self.device, self.dtype, self.batch = backbone.device, backbone.dtype, train.batch_size
        self._generator = torch.Generator(self.device).manual_seed(0)
        self.prompts, self.null = self._prompts(backbone, self.batch), self._prompts(backbone, 1)
        self._objective = PGSB(backbone, self.null, train)
        self.draws: PGSBDraws = self._objective.draw(self.batch, self._generator)

    def redraw(self) -> None:
        self.draws = self._objective.draw(self.batch, self._generator)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def same_adapters(self, loops: Mapping[str, "Loop"]) -> None:
        """Gives both loops the same adapters, which have learnt something."""
        ours, theirs = loops["ours"], loops["restated"]
        assert isinstance(ours, Ours) and isinstance(theirs, Restated)
        for up in ours.fake_score.up.parameters():
            nn.init.normal_(up, std=LEARNT)
        for key in ours.fake_score.down:
            layer = key.replace(SEPARATOR, ".")
            adapter: Any = theirs.loop.fake_score.base_model.model.get_submodule(layer)
            for own, lora in ((ours.fake_score.down, adapter.lora_A), (ours.fake_score.up, adapter.lora_B)):
                lora["default"].weight.data.copy_(own[key].get_parameter("weight"))

    def _prompts(self, backbone: Backbone, count: int) -> Conditioning:
        """Random embeddings: what they say does not change what a step costs."""
        prompts = conditioning(backbone, count, str(self.device))
        if backbone.latent_shape[1] <= MINIATURE:
            mask = None if prompts.mask is None else prompts.mask[:, :MINIATURE_TOKENS]
            prompts = Conditioning(prompts.embeddings[:, :MINIATURE_TOKENS], mask)
        return prompts.to(self.device, self.dtype)


class Loop(Protocol):
    """A way to train one step."""

    def step(self, bench: Bench) -> tuple[float, float]:
        """Both losses, read from the device."""

    def phases(self, bench: Bench) -> dict[str, Callable[[], object]]:
        """What a step is made of, each to be called alone."""


class Ours:
    """The step of `workloads`."""

    def __init__(self, bench: Bench, settings: StepSettings | None = None) -> None:
        """`settings`: how it is computed, if not as the bench says."""
        settings = settings or bench.step
        backbone, train = bench.open_backbone(), bench.train
        student = new_student(backbone)
        self.objective = PGSB(backbone, bench.null, train, settings.score_batch)
        apply_settings(student, self.objective, settings)
        self.fake_score = self.objective.fake_score
        self.engines = make_engines(student, self.objective, train)

    def step(self, bench: Bench) -> tuple[float, float]:
        losses = train_step(self.objective, self.engines, Batch(bench.prompts), bench.draws).tolist()
        return losses[0], losses[1]

    def phases(self, bench: Bench) -> dict[str, Callable[[], object]]:
        objective, (x, prompts, draws) = self.objective, (bench.draws.noise, bench.prompts, bench.draws)
        student_engine, fake_engine = self.engines[STUDENT], self.engines[FAKE_SCORE]

        def student() -> None:
            pictures = objective.backbone.one_step(student_engine, draws.start_noise, prompts)
            student_engine.step(pictures.square().mean())

        def fake_score() -> None:
            fake_engine.step(objective.fake_score_loss(fake_engine, x, prompts, draws.fake_score[0]))

        return {
            "student": student,
            "scores": lambda: objective.scores(x, prompts, draws.timestep, (draws.scale, draws.scale)),
            "fake score": fake_score,
        }


class Restated:
    """The published loop; see `restated`."""

    kind: type[RestatedLoop] = RestatedLoop

    def __init__(self, bench: Bench) -> None:
        self.loop = self.kind(bench.open_backbone(), bench.null, bench.train)

    def step(self, bench: Bench) -> tuple[float, float]:
        return self.loop.step(bench.prompts, bench.draws)

    def phases(self, bench: Bench) -> dict[str, Callable[[], object]]:
        loop, (x, prompts, draws) = self.loop, (bench.draws.noise, bench.prompts, bench.draws)
        return {
            "student": lambda: loop.update_student(loop.draw_student(prompts, draws), x),
            "scores": lambda: loop.gradient(x, prompts, draws),
            "fake score": lambda: loop.update_fake_score(x, prompts, draws),
        }


class RestatedThree(Restated):
    """With a fake score that is a whole network."""

    kind = ThreeNetworks


LOOPS: dict[str, Callable[[Bench], Loop]] = {
    "ours": Ours,
    "restated": Restated,
    "three_networks": RestatedThree,
}


def make_bench(name: str, batch: int, device: str, step: StepSettings = DEFAULT) -> Bench:
    """A shipped miniature by its name, or a published shape with random weights; `step`: of our own loop.

    Raises:
        SystemExit: there is none of that name.
    """
    if name not in START and name not in PUBLISHED:
        raise SystemExit(f"no backbone {name!r}; there are {', '.join([*START, *PUBLISHED])}")

    def open_backbone() -> Backbone:
        torch.manual_seed(0)
        if name in PUBLISHED:
            return published(name, device)
        backbone = load_backbone(str(WEIGHTS / name), start_timestep=START[name], device=device)
        own_memory(backbone.network)
        return backbone

    lora = LORA.get(name, LoraSettings())
    return Bench(open_backbone, PGSBSettings(batch_size=batch, learning_rate=1e-4, lora=lora), step)


def published(name: str, device: str) -> Backbone:
    """Random weights, in bfloat16 on a GPU, whose own precision it is."""
    backbone = build(name, device)
    if device != "cpu":
        backbone.network.to(torch.bfloat16)
    return replace(backbone, schedule=backbone.schedule.to(torch.device(device)))


def own_memory(network: nn.Module) -> None:
    """Weights that are read where the file lies in memory would not count as held."""
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
