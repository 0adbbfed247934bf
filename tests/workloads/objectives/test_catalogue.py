"""Every objective on every miniature backbone: whole steps through the interface, and learning."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workloads.attention import nasa_guidance
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.loras.entry import TeacherSource
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.miniature import CLIP, TEACHERS, WEIGHTS
from workloads.miniature.world import captions
from workloads.objectives.base import SPREAD, STUDENT, Objective
from workloads.objectives.batch import Batch
from workloads.objectives.catalogue import make_objective
from workloads.objectives.columns import ColumnEncoder, columns_of
from workloads.objectives.pairs import NOISE
from workloads.objectives.pgsb import FAKE_SCORE, PGSB
from workloads.scorers.attributes import AttributeAccuracy
from workloads.settings.objectives.boot import BootSettings
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.objectives.regression import RegressionSettings
from workloads.settings.objectives.terms import AdversarialSettings, ClipLossSettings
from workloads.settings.pairs import PairSettings
from workloads.settings.train import LoraSettings, StepSettings, TrainSettings
from workloads.students.ema import AverageWeights, exchanged_weights
from workloads.students.schedulers import with_student_steps
from workloads.students.student import decode, generate, load_autoencoder, new_student
from workloads.students.unroll import draw_noise
from workloads.training.step import apply_settings, make_engines, train_step

START = {"unet-epsilon": 300, "unet-v": 500, "pixart": 400, "sana": 999, "sd3": 999}
LORA = LoraSettings(8, 8, ("all",))
PLAIN = PGSBSettings(batch_size=4, learning_rate=1e-4, fake_score_learning_rate=2e-3, lora=LORA)
PAIRS = PairSettings(steps=2)
ARMS: dict[str, TrainSettings] = {
    "pgsb": PLAIN,
    "asymmetric": replace(PLAIN, guidance_interval=(3.0, 3.0), fake_score_interval=(1.0, 1.0)),
    "dmd": replace(PLAIN, weighting="dmd", guided="teacher", guidance_interval=(3.0, 3.0)),
    "swiftbrush": replace(PLAIN, guidance_interval=(4.5, 4.5)),
    "swiftbrush_v2": replace(
        PLAIN,
        guidance_interval=(4.5, 4.5),
        clip=ClipLossSettings(CLIP, margin=0.9, weight=1.0),
        student_lora=LoraSettings(16, 32, ("to_q", "to_k", "to_v", "to_out.0")),
    ),
    "boot": BootSettings(batch_size=4, learning_rate=1e-4, guidance_interval=(3.0, 3.0)),
    "regression": RegressionSettings(batch_size=4, learning_rate=1e-4, pairs=PAIRS, distance="mse"),
    "diffusion2gan": RegressionSettings(
        batch_size=4, learning_rate=1e-4, pairs=PAIRS, distance="mse", adversarial=AdversarialSettings()
    ),
    # Without the parts that read one row of a worker, or two of them together.
    "one_batch_gan": RegressionSettings(
        batch_size=4,
        learning_rate=1e-4,
        pairs=PAIRS,
        distance="mse",
        adversarial=AdversarialSettings(mix_rate=0.0, gradient_penalty=0.0),
    ),
    "two_steps": replace(PLAIN, student_steps=2),
    "reads_scale": replace(PLAIN, guidance_interval=(1.0, 7.5), guided="teacher", guidance_input=True),
}


class Training:
    """A student of one miniature backbone, with its objective, engines and EMA."""

    def __init__(self, teacher: str, train: TrainSettings, step: StepSettings = StepSettings()) -> None:  # noqa: B008
        torch.manual_seed(train.seed)
        source, self.train = str(WEIGHTS / teacher), train
        opened = load_backbone(source, start_timestep=START[teacher])
        self.backbone: Backbone = with_student_steps(opened, train.student_steps)
        self.encoder = TextEncoder(source)
        self.student: Any = new_student(
            self.backbone, train.start_from, train.student_lora, train.neutral_scale
        )
        self.objective: Objective[Any] = make_objective(self.backbone, self.encoder.encode([""]), train, step)
        apply_settings(self.student, self.objective, step)
        self.engines = make_engines(self.student, self.objective, train)
        self.average = AverageWeights(self.engines[STUDENT].weights, train.ema_decay)

        self._makers: dict[str, ColumnEncoder] | None = None

    def steps(self, count: int) -> Tensor:
        """Train for `count` steps and return their metrics (count, L)."""
        rows, generator = self.train.batch_size, torch.Generator().manual_seed(self.train.seed)
        prompts, metrics = captions(count * rows, 5), []
        for step in range(1, count + 1):
            texts = prompts[(step - 1) * rows : step * rows]
            draws = self.objective.draw(rows, generator)
            metrics.append(
                train_step(self.objective, self.engines, self.batch(texts, (step - 1) * rows), draws, step)
            )
            self.average.update(self.engines[STUDENT].weights, step)
        return torch.stack(metrics)

    def batch(self, texts: list[str], first: int = 0) -> Batch:
        """Return a batch with the columns that the data stage would store for rows from `first`."""
        teacher = TeacherSource(self.backbone.source)
        if self._makers is None:
            self._makers = {c.name: c.open(teacher, "cpu") for c in columns_of(self.train, teacher)}
        columns = {name: make(texts, first) for name, make in self._makers.items()}
        made = self.objective.prepare(Batch(self.encoder.encode(texts), columns=columns))
        assert {name: column.shape[1] for name, column in made.columns.items()} == self.objective.columns
        return made

    def accuracy(self, samples: int = 128) -> float:
        """Return the attribute accuracy of the averaged student."""
        prompts = AttributeAccuracy.prompts(samples)
        generator = torch.Generator().manual_seed(0)
        noise = draw_noise(self.backbone, samples, generator)
        with exchanged_weights(self.average.weights, self.student):
            latents = generate(self.backbone, self.student, noise, self.encoder.encode(prompts))
        images = decode(load_autoencoder(self.backbone.source), latents)
        return AttributeAccuracy().score(images, prompts)[0].value


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_steps_on_every_miniature(teacher: str, arm: str) -> None:
    """Exactly the trainable parameters change, and every named metric is finite."""
    training = Training(teacher, ARMS[arm])
    frozen = [p.detach().clone() for p in training.backbone.network.parameters() if not p.requires_grad]
    networks = {name: engine.module for name, engine in training.engines.items()}
    before = {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}
    metrics = training.steps(2)
    assert metrics.shape == (2, len(training.objective.metric_names)) and metrics.isfinite().all()
    assert {"student_loss", SPREAD} <= set(training.objective.metric_names)
    for name, network in networks.items():
        for parameter, old in zip(network.parameters(), before[name], strict=True):
            # An adapter's `up` starts at zero, so its `down` has no gradient at the first step.
            assert torch.equal(parameter, old) or parameter.requires_grad
        moved = [not torch.equal(p, old) for p, old in zip(network.parameters(), before[name], strict=True)]
        assert sum(moved) > 0.9 * sum(p.requires_grad for p in network.parameters()), name
    now = [p for p in training.backbone.network.parameters() if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(now, frozen, strict=True))


def test_regression_needs_the_noise_of_each_pair() -> None:
    """With the noise of another pair the student can only learn the mean of what belongs to the prompt."""
    errors = []
    for shift in (0, 1):
        training = Training("pixart", replace(ARMS["regression"], batch_size=16, learning_rate=3e-4))
        given = training.batch

        def shifted(
            texts: list[str],
            first: int = 0,
            given: Callable[[list[str], int], Batch] = given,
            shift: int = shift,
        ) -> Batch:
            batch = given(texts, first)
            return replace(batch, columns={**batch.columns, NOISE: batch.columns[NOISE].roll(shift, 0)})

        training.batch = shifted  # type: ignore[method-assign]
        metrics = dict(zip(training.objective.metric_names, training.steps(40)[-10:].mean(0), strict=True))
        errors.append(metrics["mean_square_error"])
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize("arm", ["swiftbrush_v2", "boot", "diffusion2gan"])
def test_activation_checkpointing_trains_the_same(arm: str) -> None:
    found = []
    for settings in (StepSettings(), StepSettings(activation_checkpointing=True)):
        training = Training("pixart", ARMS[arm], settings)
        training.steps(2)
        found.append([p for p in training.student.parameters() if p.requires_grad])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_boot_learns() -> None:
    train = replace(ARMS["boot"], batch_size=16, learning_rate=3e-4, ema_decay=0.9)
    training = Training("pixart", train)
    before = training.accuracy()
    losses = training.steps(30)[:, 0]
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert training.accuracy() > before + 0.05


def test_clip_loss_raises_clip_agreement() -> None:
    """The loss ends lower than in the same training with a negligible weight."""
    train = replace(ARMS["swiftbrush_v2"], batch_size=16, learning_rate=3e-3)
    assert isinstance(train, PGSBSettings) and train.clip is not None
    without = replace(train, clip=replace(train.clip, weight=1e-6))
    ends = [Training("pixart", arm).steps(24)[-8:, -1].mean() for arm in (train, without)]
    assert ends[0] < ends[1] - 0.04


def test_pgsb_updates_match_a_plain_loop_bitwise() -> None:
    """The interface changes no bit of losses and weights, under NASA-T too."""
    train = replace(PLAIN, nasa_interval=(0.2, 0.8), fake_score_updates=2, guided="teacher")
    ours, theirs = Training("pixart", train), Training("pixart", train)
    generator = torch.Generator().manual_seed(3)
    negatives, prompts = (ours.encoder.encode(captions(4, seed)) for seed in (1, 2))
    draws = ours.objective.draw(4, generator)
    metrics = train_step(ours.objective, ours.engines, Batch(prompts, negatives), draws)
    expected = by_hand(theirs, prompts, negatives, draws)
    assert torch.equal(metrics, expected)
    for name, engine in ours.engines.items():
        assert_equal(engine.module, theirs.engines[name].module)


def by_hand(training: Training, prompts: Conditioning, negatives: Conditioning, draws: Any) -> Tensor:
    """Run one step of PG-SB without `Objective.updates`."""
    objective, student, fake = training.objective, training.engines[STUDENT], training.engines[FAKE_SCORE]
    assert isinstance(objective, PGSB)
    with nasa_guidance(student, negatives, draws.strength):
        latents = objective.backbone.one_step(student, draws.start_noise, prompts)
        frozen = latents.detach()
        noisy = objective.backbone.schedule.add_noise(frozen, draws.noise, draws.timestep)
        scales = (draws.scale, draws.scale)
        teacher, fake_score = objective.scores(noisy, prompts, draws.timestep, scales, negatives)
        _, sigma = objective.backbone.schedule.alpha_sigma(draws.timestep)
        gradient = torch.nan_to_num(sigma.square() * (teacher - fake_score))
        student_loss = 0.5 * (latents - (frozen - gradient)).square().mean()
        student.step(student_loss)
    for update in draws.fake_score:
        fake_loss = objective.fake_score_loss(fake, frozen, prompts, update)
        fake.step(fake_loss)
    gap, spread = (teacher - fake_score).square().mean().sqrt(), frozen.std(dim=0, correction=0).mean()
    return torch.stack([student_loss, fake_loss, gap, spread]).detach()


def assert_equal(network: nn.Module, other: nn.Module) -> None:
    for (name, ours), theirs in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
