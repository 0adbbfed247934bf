"""PG-SB against an independent float64 re-derivation, for each prediction type.

The derivation shares no code with the objective: separate networks, with the adapters of the fake score and
of an adapter student merged into the weights of theirs, four separate forward passes, and the gradient as the
inner product of the score difference with the student's Jacobian.
"""

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

from tests.support.schedules import PREDICTIONS, ByHand
from workloads.backbones.backbone import Backbone
from workloads.backbones.families import FAMILIES
from workloads.backbones.noise_schedule import Prediction
from workloads.backbones.prompts.conditioning import Conditioning
from workloads.layers.guidance_input import GuidanceConditioned, GuidanceEmbedding, unet_features_used
from workloads.layers.lora import AdapterSet
from workloads.objectives.base import STUDENT
from workloads.objectives.batch import Batch
from workloads.objectives.classifier_free_guidance import rescale_norm
from workloads.objectives.pgsb import PGSB
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import LoraSettings, ScoreBatch

BATCH = 4
LORA = LoraSettings(rank=3, alpha=5.0, targets=("all",))
STUDENT_LORA = LoraSettings(rank=2, alpha=3.0, targets=("to_q", "to_k", "to_v", "proj_in", "conv1"))


def tiny_unet(seed: int, **config: Any) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=6,
        **config,
    ).double()


class Bench:
    """A backbone, a student with other weights, and a fake score with non-zero adapters.

    The student is a network of its own or, with `student_lora`, adapters on the teacher's.
    """

    def __init__(
        self, prediction: Prediction, student_lora: LoraSettings | None = None, **settings: object
    ) -> None:
        teacher = tiny_unet(0).requires_grad_(False).eval()
        self.teacher = copy.deepcopy(teacher)
        self.by_hand = ByHand(prediction)
        self.start = 999 if self.by_hand.flow else 700
        self.backbone = Backbone("tiny", FAMILIES[0], teacher, self.by_hand.schedule(), self.start)
        self.student: Any = tiny_unet(1) if student_lora is None else AdapterSet(teacher, student_lora)
        if settings.get("guidance_input"):
            self.student = GuidanceConditioned(self.student, GuidanceEmbedding.of(self.student, 7.5**0.5))
        self.separate_student: Any = self.student if student_lora is None else copy.deepcopy(self.teacher)
        torch.manual_seed(2)
        self.prompts = Conditioning(torch.randn(BATCH, 3, 6, dtype=torch.float64))
        self.null = Conditioning(torch.randn(1, 3, 6, dtype=torch.float64))
        train = PGSBSettings(lora=LORA, student_lora=student_lora, **settings)  # type: ignore[arg-type]
        self.objective = PGSB(self.backbone, self.null, train)
        self.fake_score = self.objective.fake_score
        sets = [self.fake_score] if student_lora is None else [self.student, self.fake_score]
        sets += [self.student.embedding] if settings.get("guidance_input") else []
        for parameter in (p for each in sets for p in each.parameters()):
            nn.init.normal_(parameter, std=0.2)
        torch.set_default_dtype(torch.float64)
        self.draws = self.objective.draw(BATCH, torch.Generator().manual_seed(3))
        torch.set_default_dtype(torch.float32)

    def weights(self, adapters: AdapterSet, factor: float) -> dict[str, Tensor]:
        """Return the teacher's weights that a set of adapters changes, with them: W + alpha / r B A."""
        changed = {}
        for (key, down), up in zip(adapters.down.items(), adapters.up.values(), strict=True):
            name = f"{key.replace('/', '.')}.weight"
            product = up.get_parameter("weight").flatten(1) @ down.get_parameter("weight").flatten(1)
            weight = self.teacher.get_parameter(name)
            changed[name] = weight + factor * product.view_as(weight)
        return changed

    def merged(self) -> UNet2DConditionModel:
        """Return the fake score as a separate network, with the adapters merged into its weights."""
        network: UNet2DConditionModel = copy.deepcopy(self.teacher)
        network.load_state_dict(self.weights(self.fake_score, 5 / 3), strict=False)
        return network

    def student_by_hand(self, *inputs: Tensor) -> Any:
        """Call the student as a separate network; gradients flow into the adapters of an adapter student."""
        adapters = isinstance(self.student, AdapterSet)
        weights = self.weights(self.student, STUDENT_LORA.alpha / STUDENT_LORA.rank) if adapters else {}
        return functional_call(self.separate_student, weights, inputs)

    def output(self, network: Callable[..., Any], x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        out: Tensor = network(x, self.by_hand.shown[t], text).sample
        return out

    def epsilon(self, network: Callable[..., Any], x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return self.by_hand.both(self.output(network, x, t, text), x, t)[1]

    def sampled_by_hand(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the student's latents x_0, detached x_t, and alpha and sigma at t."""
        draws, start = self.draws, torch.full((BATCH,), self.start)
        output = self.output(self.student_by_hand, draws.start_noise, start, self.prompts.embeddings)
        x0 = self.by_hand.both(output, draws.start_noise, start)[0]
        a, s = (table[draws.timestep][:, None, None, None] for table in (self.by_hand.a, self.by_hand.s))
        return x0, (a * x0 + s * draws.noise).detach(), a, s


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("guided", ["both", "teacher", "fake_score"])
@pytest.mark.parametrize("weighting", ["sigma_squared", "uniform", "dmd"])
def test_student_gradient(prediction: Prediction, guided: str, weighting: str) -> None:
    check_student_gradient(Bench(prediction, guided=guided, weighting=weighting))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("score_batch", ["all", "role", "prediction"])
def test_student_gradient_of_adapters(prediction: Prediction, score_batch: ScoreBatch) -> None:
    """Teacher, fake score and student are one network."""
    bench = Bench(prediction, STUDENT_LORA)
    bench.objective.score_batch = score_batch
    check_student_gradient(bench)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_norm_rescaled_guidance(prediction: Prediction) -> None:
    check_student_gradient(Bench(prediction, norm_rescaled_guidance=True, guidance_interval=(2.0, 6.0)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_separate_scale_of_the_fake_score(prediction: Prediction) -> None:
    bench = Bench(prediction, guidance_interval=(2.0, 6.0), fake_score_interval=(0.5, 1.5))
    teacher, fake = bench.draws.scale, bench.draws.fake_score_scale
    assert teacher.min() >= 2 and fake.max() <= 1.5 and len(set(fake.tolist())) == BATCH
    check_student_gradient(bench)


def check_student_gradient(bench: Bench) -> None:
    """Compare with the inner product of the weighted score difference and the student's Jacobian."""
    settings = bench.objective.settings
    outcome = bench.objective.student_loss(bench.student, bench.prompts, bench.draws)
    ours = torch.autograd.grad(outcome.loss, list(bench.student.parameters()))

    draws = bench.draws
    x0, xt, a, s = bench.sampled_by_hand()
    null = bench.null.embeddings.expand(BATCH, -1, -1)

    def guided_score(network: Callable[..., Any], on: bool, scale: Tensor) -> Tensor:
        k = scale[:, None, None, None]
        conditional = bench.output(network, xt, draws.timestep, bench.prompts.embeddings)
        unconditional = bench.output(network, xt, draws.timestep, null)
        out = (1 - k) * unconditional + k * conditional if on else conditional
        if settings.norm_rescaled_guidance:
            out = out * conditional.norm(dim=1, keepdim=True) / out.norm(dim=1, keepdim=True)
        return bench.by_hand.both(out, xt, draws.timestep)[1]

    with torch.no_grad():
        teacher = guided_score(bench.teacher, settings.guided != "fake_score", draws.scale)
        fake = guided_score(bench.merged(), settings.guided != "teacher", draws.fake_score_scale)
        if settings.weighting == "dmd":
            # As in DMD2's code: from both predictions of x_0, sample by sample.
            real, fakes = ((xt - s * e) / a for e in (teacher, fake))
            gradient = torch.stack(
                [(d - r) / (x - r).abs().mean() for x, r, d in zip(x0, real, fakes, strict=True)]
            )
        else:
            gradient = (s**2 if settings.weighting == "sigma_squared" else 1) * (teacher - fake)
    expected = torch.autograd.grad((gradient * x0).sum() / x0.numel(), list(bench.student.parameters()))
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    assert any(want.abs().max() > 1e-6 for want in expected)


def conditioned(network: UNet2DConditionModel, embedding: GuidanceEmbedding) -> UNet2DConditionModel:
    """Return diffusers' own network that reads a guidance scale, with the weights of both."""
    whole = tiny_unet(5, time_cond_proj_dim=256)
    weight = embedding.get_parameter("projection.weight") * unet_features_used()
    whole.load_state_dict({**network.state_dict(), "time_embedding.cond_proj.weight": weight})
    return whole


def stock_features(scale: Tensor) -> Tensor:
    """Return what stock pipelines feed for guidance scales (B,)."""
    embed: Any = StableDiffusionPipeline.get_guidance_scale_embedding
    torch.set_default_dtype(torch.float64)  # for its frequencies
    features: Tensor = embed(None, scale - 1, 256, torch.float64)
    torch.set_default_dtype(torch.float32)
    return features


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("guided", ["teacher", "both"])
@pytest.mark.parametrize("score_batch", ["all", "role", "prediction"])
@pytest.mark.parametrize("reads", [True, "student"])
def test_guidance_input(
    prediction: Prediction, guided: str, score_batch: ScoreBatch, reads: bool | str
) -> None:
    """Student and fake score read the scale as diffusers has it; the teacher's calls are its own."""
    bench = Bench(prediction, guided=guided, guidance_input=reads, guidance_interval=(1.0, 7.5))
    bench.objective.score_batch = score_batch
    draws, scale = bench.draws, bench.draws.scale
    update = next(bench.objective.updates({STUDENT: bench.student}, Batch(bench.prompts), draws, 1))
    inner, embedding = bench.student.network, bench.student.embedding
    ours = torch.autograd.grad(update.loss, [*inner.parameters(), embedding.projection.weight])

    fed = {"timestep_cond": stock_features(scale) - stock_features(torch.full_like(scale, 7.5**0.5))}
    student = conditioned(inner, embedding)
    fake_score: Any = bench.merged()
    if bench.fake_score.guidance is not None:
        fake_score = partial(conditioned(fake_score, bench.fake_score.guidance), **fed)
    start = torch.full((BATCH,), bench.start)
    output = bench.output(partial(student, **fed), draws.start_noise, start, bench.prompts.embeddings)
    x0 = bench.by_hand.both(output, draws.start_noise, start)[0]
    a, s = (table[draws.timestep][:, None, None, None] for table in (bench.by_hand.a, bench.by_hand.s))
    xt, k = (a * x0 + s * draws.noise).detach(), scale[:, None, None, None]
    null = bench.null.embeddings.expand(BATCH, -1, -1)

    def score(network: Callable[..., Any], guide: bool) -> Tensor:
        conditional = bench.epsilon(network, xt, draws.timestep, bench.prompts.embeddings)
        if not guide:
            return conditional
        return (1 - k) * bench.epsilon(network, xt, draws.timestep, null) + k * conditional

    with torch.no_grad():
        gap = score(bench.teacher, True) - score(fake_score, guided == "both")
    parameters = dict(student.named_parameters())
    names = [name for name, _ in inner.named_parameters()] + ["time_embedding.cond_proj.weight"]
    expected = torch.autograd.grad((s**2 * gap * x0).sum() / x0.numel(), [parameters[n] for n in names])
    for got, want in zip(ours, [*expected[:-1], expected[-1] * unet_features_used()], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    assert expected[-1].abs().max() > 1e-6


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("student_lora", [None, STUDENT_LORA], ids=["whole", "adapters"])
def test_fake_score_loss(prediction: Prediction, student_lora: LoraSettings | None) -> None:
    bench = Bench(prediction, student_lora, null_rate=0.5)
    draws = bench.draws.fake_score[0]
    assert draws.drop_prompt.any() and not draws.drop_prompt.all()
    torch.manual_seed(4)
    latents = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64)
    ours = bench.objective.fake_score_loss(bench.fake_score, latents, bench.prompts, draws)
    text = bench.prompts.embeddings.clone()
    text[draws.drop_prompt] = bench.null.embeddings[0]
    a, sigma = (table[draws.timestep][:, None, None, None] for table in (bench.by_hand.a, bench.by_hand.s))
    xt = a * latents + sigma * draws.noise
    if bench.by_hand.flow:
        error = bench.output(bench.merged(), xt, draws.timestep, text) - (draws.noise - latents)
    else:
        error = a * (bench.epsilon(bench.merged(), xt, draws.timestep, text) - draws.noise)
    torch.testing.assert_close(ours, (error**2).mean(), rtol=1e-10, atol=0)


def test_fake_score_updates_keep_the_teacher() -> None:
    bench = Bench("epsilon")
    latents = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64)
    loss = bench.objective.fake_score_loss(
        bench.fake_score, latents, bench.prompts, bench.draws.fake_score[0]
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in bench.fake_score.parameters())
    torch.optim.SGD(bench.fake_score.parameters(), 0.1).step()
    x, t = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64), torch.full((BATCH,), 300)
    now = bench.backbone.epsilon(bench.backbone.network, x, t, bench.prompts)
    torch.testing.assert_close(
        now, bench.epsilon(bench.teacher, x, t, bench.prompts.embeddings), rtol=0, atol=0
    )


def test_expected_gradient_is_linear_in_the_scale() -> None:
    """The expected gradient at a random scale is that at the mean scale, hence the control arms of sweeps."""
    bench = Bench("epsilon")
    x, t = bench.draws.start_noise, bench.draws.timestep

    def gap(scale: float) -> Tensor:
        k = torch.full((BATCH,), scale, dtype=torch.float64)
        teacher, fake = bench.objective.scores(x, bench.prompts, t, (k, k))
        return teacher - fake

    torch.testing.assert_close((gap(1.0) + gap(5.0)) / 2, gap(3.0), rtol=1e-10, atol=1e-12)


def test_the_rescaled_gradient_is_not_linear_in_the_scale() -> None:
    bench = Bench("flow_prediction", norm_rescaled_guidance=True)
    x, t = bench.draws.start_noise, bench.draws.timestep

    def teacher(scale: float) -> Tensor:
        k = torch.full((BATCH,), scale, dtype=torch.float64)
        return bench.objective.scores(x, bench.prompts, t, (k, k))[0]

    assert not torch.allclose((teacher(1.0) + teacher(9.0)) / 2, teacher(5.0), rtol=1e-3)


def test_norms_are_rescaled_token_by_token() -> None:
    guided, conditional = torch.randn(2, 3, 5, 4, 4, dtype=torch.float64)
    rescaled = rescale_norm(guided, conditional, token_size=2)
    for b, i, j in itertools.product(range(3), (0, 2), (0, 2)):
        one, other = (part[b, :, i : i + 2, j : j + 2] for part in (guided, conditional))
        expected = one * other.norm() / one.norm()
        torch.testing.assert_close(rescaled[b, :, i : i + 2, j : j + 2], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("prediction", "expected"), [("epsilon", "uniform"), ("flow_prediction", "logit_normal")]
)
def test_timesteps_of_the_fake_score(prediction: Prediction, expected: str) -> None:
    objective = Bench(prediction).objective
    assert objective.fake_score_timesteps == expected
    timestep = objective.draw(4096, torch.Generator().manual_seed(0)).fake_score[0].timestep
    logits = torch.logit((timestep.double() + 0.5) / 1000)
    # The logit of a uniform number has the standard deviation pi / sqrt 3.
    assert logits.std().item() == pytest.approx(1.0 if expected == "logit_normal" else 1.81, rel=0.05)
    assert abs(logits.mean().item()) < 0.1 and timestep.min() >= 0 and timestep.max() <= 999


def test_timesteps_of_the_student() -> None:
    objective = Bench("flow_prediction", timesteps="logit_normal", timestep_range=(0.5, 0.9)).objective
    timestep = objective.draw(4096, torch.Generator().manual_seed(0)).timestep
    assert timestep.min() >= 500 and timestep.max() < 900
    assert timestep.double().std().item() == pytest.approx(400 * 0.208, rel=0.05)


def test_worker_draws_are_rows_of_the_global_draws() -> None:
    bench = Bench("epsilon", guidance_interval=(1.0, 5.0))
    part = bench.draws[slice(1, 3)]
    assert torch.equal(part.start_noise, bench.draws.start_noise[1:3])
    assert torch.equal(part.fake_score[0].noise, bench.draws.fake_score[0].noise[1:3])
    assert len(set(bench.draws.scale.tolist())) == BATCH
    assert bench.draws.scale.min() >= 1 and bench.draws.scale.max() <= 5


def test_one_scale_per_batch() -> None:
    bench = Bench("epsilon", guidance_per="batch")
    assert len(set(bench.draws.scale.tolist())) == 1


class ReferenceNasa:
    """NASA as an attention processor with an explicit softmax and one negative prompt per sample."""

    def __init__(self, negative: Tensor, strength: Tensor) -> None:
        self.negative, self.strength = negative, strength

    def __call__(self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        def read(text: Tensor) -> Tensor:
            q, k, v = (
                part.reshape(*part.shape[:2], attn.heads, -1)
                for part in (attn.to_q(hidden), attn.to_k(text), attn.to_v(text))
            )
            weight = (torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5).softmax(-1)
            return torch.einsum("bhqk,bkhd->bqhd", weight, v).flatten(2)

        out: Tensor = attn.to_out[0](read(encoder_hidden_states) - self.strength * read(self.negative))
        return out


@pytest.mark.parametrize("prediction", ["epsilon", "flow_prediction"])
@pytest.mark.parametrize("guided", ["both", "teacher"])
@pytest.mark.parametrize("student_lora", [None, STUDENT_LORA], ids=["whole", "adapters"])
def test_nasa_t_gradient(guided: str, prediction: Prediction, student_lora: LoraSettings | None) -> None:
    """SNOOPI v3, sec. 5.3: no negatives for the fake score; gradients pass through the negative branch.

    Neither score is guided inside its attention, not even where it shares the student's network.
    """
    bench = Bench(prediction, student_lora, guided=guided, nasa_interval=(0.2, 0.9))
    negatives = Conditioning(torch.randn(BATCH, 3, 6, dtype=torch.float64))
    draws = bench.draws
    assert 0.2 <= draws.strength <= 0.9
    networks, batch = {STUDENT: bench.student}, Batch(bench.prompts, negatives)
    update = next(bench.objective.updates(networks, batch, draws, 1))
    ours = torch.autograd.grad(update.loss, list(bench.student.parameters()))

    plain = dict(bench.separate_student.attn_processors)
    by_hand = {
        k: ReferenceNasa(negatives.embeddings, draws.strength) if "attn2" in k else p
        for k, p in plain.items()
    }
    bench.separate_student.set_attn_processor(by_hand)
    x0, xt, _, s = bench.sampled_by_hand()
    k = draws.scale[:, None, None, None]
    null = bench.null.embeddings.expand(BATCH, -1, -1)

    def score(network: nn.Module, against: Tensor | None) -> Tensor:
        conditional = bench.epsilon(network, xt, draws.timestep, bench.prompts.embeddings)
        if against is None:
            return conditional
        return (1 - k) * bench.epsilon(network, xt, draws.timestep, against) + k * conditional

    with torch.no_grad():
        fake = score(bench.merged(), null if guided == "both" else None)
        gap = score(bench.teacher, negatives.embeddings) - fake
    expected = torch.autograd.grad((s**2 * gap * x0).sum() / x0.numel(), list(bench.student.parameters()))
    for got, want in zip(ours, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
