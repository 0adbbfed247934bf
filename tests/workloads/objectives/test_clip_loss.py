"""The CLIP loss against the complete CLIP model, and its gradient against finite differences."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
)

from tests.workloads.objectives.test_pgsb import Bench as PGSBBench
from workloads.images import from_image, to_image
from workloads.miniature import CLIP, WEIGHTS
from workloads.miniature.world import captions, dataset
from workloads.objectives.base import STUDENT, Objective, Update
from workloads.objectives.batch import Batch
from workloads.objectives.clip_loss import CLIP_LOSS, ClipLoss, load_clip_loss
from workloads.objectives.clip_model import ClipTextEncoder
from workloads.objectives.columns import ClipTextColumn
from workloads.objectives.terms import NoDraws, TermedDraws, WithTerms
from workloads.scorers.clip import ClipAgreement
from workloads.scorers.scorer import Request
from workloads.settings.objectives.terms import ClipLossSettings
from workloads.students.student import load_autoencoder

SETTINGS = ClipLossSettings(CLIP, margin=0.5)
SOURCE = str(WEIGHTS / "pixart")
COUNT = 6


def loss(settings: ClipLossSettings = SETTINGS, steps: int = 10) -> ClipLoss:
    return load_clip_loss(settings, steps, torch.device("cpu"), lambda: load_autoencoder(SOURCE))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    """Latents of miniature images with noise added."""
    vae = load_autoencoder(SOURCE)
    clean = vae.encode(torch.from_numpy(dataset(COUNT, 3)[0])).latent_dist.mean * vae.config.scaling_factor
    noisy: Tensor = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return noisy


def by_hand(latents: Tensor, texts: list[str], margin: float) -> Tensor:
    """Compute the loss with the complete `CLIPModel` and its tokenizer, one pair at a time."""
    model, vae = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32), load_autoencoder(SOURCE)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS / "clip")
    losses = []
    for one, text in zip(latents, texts, strict=True):
        image = vae.decode(one[None] / vae.config.scaling_factor).sample
        # The processor's mean and standard deviation are 1/2, so the model reads [-1, 1].
        logits = model(pixel_values=image, **tokenizer([text], return_tensors="pt")).logits_per_image
        cosine = logits[0, 0] / model.logit_scale.exp()
        losses.append(torch.clamp(margin - cosine, min=0))
    return sum(losses, torch.zeros(())) / len(losses)


@pytest.mark.parametrize("margin", [0.2, 0.5, 0.9])
def test_value_and_gradient(latents: Tensor, margin: float) -> None:
    texts = captions(COUNT, 8)
    ours, x = loss(replace(SETTINGS, margin=margin)), latents.clone().requires_grad_()
    value = ours(x, ClipTextEncoder(CLIP).encode(texts))
    torch.testing.assert_close(value, by_hand(latents, texts, margin), rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(value, x)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ahead, behind = (by_hand(latents + h * direction, texts, margin) for h in (2e-3, -2e-3))
    torch.testing.assert_close((gradient * direction).sum(), (ahead - behind) / 4e-3, rtol=0.03, atol=1e-4)
    assert gradient.abs().max() > 0


def test_images_above_the_margin_have_no_gradient(latents: Tensor) -> None:
    right, wrong = dataset(COUNT, 3)[2], captions(COUNT, 8)
    texts, x = [*right[: COUNT // 2], *wrong[COUNT // 2 :]], latents.clone().requires_grad_()
    read, measure = ClipTextEncoder(CLIP).encode(texts), loss(replace(SETTINGS, margin=0.35))
    cosines = (measure.embed(measure.decode(latents)) * read).sum(1)
    (gradient,) = torch.autograd.grad(measure(x, read), x)
    touched = gradient.flatten(1).abs().sum(1) > 0
    assert torch.equal(touched, cosines < 0.35)
    assert touched.tolist() == [False] * (COUNT // 2) + [True] * (COUNT // 2)


def test_weight_decays_linearly_with_gaps() -> None:
    measure = loss(replace(SETTINGS, weight=0.2, every=3))
    weights = [measure.weight(step) for step in range(1, 11)]
    assert weights == pytest.approx([0.2, 0, 0, 0.14, 0, 0, 0.08, 0, 0, 0.02])


def test_resizing_matches_the_processor() -> None:
    """The processor resizes 8-bit images with Pillow; the loss resizes floats with gradient."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPModel(CLIPConfig(vision_config={**shape, "image_size": 40, "patch_size": 8})).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40})
    measure, seen = ClipLoss(model, processor, load_autoencoder(SOURCE), SETTINGS, 10), []
    watch = lambda *given: seen.append(given[2]["pixel_values"])  # noqa: E731
    model.vision_model.register_forward_pre_hook(watch, with_kwargs=True)
    for side in (24, 96):
        image = to_image(torch.from_numpy(dataset(1, 4)[0][0])).resize((side, side))
        measure.embed(from_image(image)[None])
        theirs = processor(images=[image], return_tensors="pt").pixel_values
        torch.testing.assert_close(seen.pop(), theirs, rtol=0, atol=0.06)


def test_text_embeddings_match_the_scorer(latents: Tensor) -> None:
    """Cosines equal those of the CLIP scorer, for truncated prompts too."""
    texts = [*captions(COUNT - 1, 8), "a red circle " * 20]
    scorer, measure = ClipAgreement(CLIP, prefix=""), loss()
    scorer.load()
    images = measure.decode(latents).clamp(-1, 1)
    cosines = (measure.embed(images) * ClipTextEncoder(CLIP).encode(texts)).sum(1)
    theirs = scorer.measure(images, [Request(text) for text in texts])["clip_plus"]
    torch.testing.assert_close(cosines, torch.from_numpy(theirs), rtol=0, atol=0.01)


def test_with_clip_loss_adds_to_the_student_alone() -> None:
    """The weighted gradient is added to the student's update; other updates keep every bit."""
    bench = PGSBBench("epsilon")
    torch.manual_seed(6)
    read = torch.nn.functional.normalize(torch.randn(len(bench.prompts), 64), dim=1)
    term = loss(replace(SETTINGS, margin=1.0, weight=0.4, every=2))
    both = WithTerms(bench.objective, [term])
    parameters = list(bench.student.parameters())
    networks = {STUDENT: bench.student, "fake_score": bench.fake_score}

    batch = Batch(bench.prompts, columns={ClipTextColumn.name: read})

    def updates(objective: Objective[Any], step: int) -> tuple[list[Tensor], list[Update]]:
        draws = TermedDraws(bench.draws, (NoDraws(),)) if objective is both else bench.draws
        found = list(objective.updates(networks, batch, draws, step))
        return list(torch.autograd.grad(found[0].loss, parameters)), found

    plain, first = updates(bench.objective, 1)
    ours, second = updates(both, 1)
    sampled = bench.backbone.one_step(bench.student, bench.draws.start_noise, bench.prompts)
    clip = torch.autograd.grad(term(sampled, read), parameters)
    for got, one, other in zip(ours, plain, clip, strict=True):
        torch.testing.assert_close(got, one + 0.4 * other, rtol=1e-3, atol=1e-6)
    assert max((0.4 * other).abs().max() for other in clip) > 1e-3
    assert torch.equal(first[1].loss, second[1].loss) and second[0].metrics[CLIP_LOSS] > 0
    rest, third = updates(both, 2)
    assert all(itertools.starmap(torch.equal, zip(rest, plain, strict=True)))
    assert third[0].metrics[CLIP_LOSS] == second[0].metrics[CLIP_LOSS]
    assert both.columns == {ClipTextColumn.name: 64}
    assert both.metric_names == (*bench.objective.metric_names, CLIP_LOSS)
    assert both.auxiliary == bench.objective.auxiliary


def test_missing_model_error_names_the_command() -> None:
    for name in ("nobody/no-such-clip", str(WEIGHTS / "vae")):
        with pytest.raises(ValueError, match=r"train.clip: .*hf download") as caught:
            loss(ClipLossSettings(name))
        assert name in str(caught.value) and "\n" not in str(caught.value)
