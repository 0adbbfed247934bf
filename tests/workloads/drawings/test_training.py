"""Resumed training, shipped weights, and the pipeline that stock diffusers opens."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from workloads.drawings import networks
from workloads.drawings.latent_space import LatentSpace, fit_latent_space
from workloads.drawings.losses import EMPTY_T5_TOKENS, encode_for_transformer
from workloads.drawings.pictures import Drawings
from workloads.drawings.pipeline import save_pipeline
from workloads.drawings.sheet import write_sheet
from workloads.drawings.training import LEARNING_RATE, WARM_UP_STEPS, Training
from workloads.drawings.weights import go_on_from, read_weights, write_weights

TEACHERS = list(LEARNING_RATE)


@pytest.fixture(scope="module")
def space(drawings: Drawings) -> LatentSpace:
    return fit_latent_space(drawings.images[drawings.training_rows])


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workloads.drawings.training.BATCH", 4)
    monkeypatch.setattr("workloads.drawings.sheet.STEPS", 2)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_three_steps_and_three_more_are_six(
    teacher: str, drawings: Drawings, space: LatentSpace, tmp_path: Path
) -> None:
    whole = Training(teacher, drawings, space, seed=0)
    losses = [whole.train_step() for _ in range(6)]
    first = Training(teacher, drawings, space, seed=0)
    halves = [first.train_step() for _ in range(3)]
    first.save(tmp_path / "checkpoint")
    second = Training(teacher, drawings, space, seed=0)
    second.load(tmp_path / "checkpoint")
    halves += [second.train_step() for _ in range(3)]
    assert halves == losses
    for name in ("parts", "average"):
        one, other = (getattr(each, name).state_dict() for each in (whole, second))
        assert all(torch.equal(value, other[key]) for key, value in one.items()), name
    assert second.core_seconds > first.core_seconds > 0


def test_a_checkpoint_of_another_seed_is_refused(
    drawings: Drawings, space: LatentSpace, tmp_path: Path
) -> None:
    Training("unet", drawings, space, seed=0).save(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="has seed 0, not 1"):
        Training("unet", drawings, space, seed=1).load(tmp_path / "checkpoint")


def test_held_out_cells_are_never_drawn(drawings: Drawings, space: LatentSpace) -> None:
    training = Training("unet", drawings, space, seed=0)
    seen = {
        row for seed in range(60) for row in training.batch(torch.Generator().manual_seed(seed))[0].tolist()
    }
    assert seen == {row for row in range(20) if not drawings.held_out[row]}


def test_the_rate_warms_up_stays_and_falls(drawings: Drawings, space: LatentSpace) -> None:
    training, full = Training("unet", drawings, space, seed=0), LEARNING_RATE["unet"]
    assert training.learning_rate() == pytest.approx(full / WARM_UP_STEPS)
    training.step = 5_000
    assert training.learning_rate() == full
    training.decay = (5_000, 100)
    training.step = 5_075
    assert training.learning_rate() == pytest.approx(full / 4)
    training.step = 5_100
    assert training.decayed


@pytest.mark.parametrize("teacher", TEACHERS)
def test_training_goes_on_from_shipped_weights(
    teacher: str, drawings: Drawings, space: LatentSpace, tmp_path: Path
) -> None:
    training = Training(teacher, drawings, space, seed=0)
    training.train_step()
    write_weights(training, tmp_path)
    assert (tmp_path / f"{teacher}.safetensors").stat().st_size < 14_000_000
    later = Training(teacher, drawings, space, seed=0)
    go_on_from(later, tmp_path)
    assert later.step == 1
    assert later.core_seconds == pytest.approx(training.core_seconds, abs=0.1)
    assert later.learning_rate() == pytest.approx(LEARNING_RATE[teacher] / WARM_UP_STEPS)
    wanted = training.average.state_dict()
    for name, value in later.parts.state_dict().items():
        assert torch.allclose(value.float(), wanted[name].float(), rtol=1e-3, atol=1e-6), name


def test_weights_that_the_record_does_not_describe_are_refused(
    drawings: Drawings, space: LatentSpace, tmp_path: Path
) -> None:
    write_weights(Training("unet", drawings, space, seed=0), tmp_path)
    (tmp_path / "unet.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"not the file that unet\.json describes"):
        read_weights("unet", tmp_path)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_stock_diffusers_opens_the_saved_folder_and_draws(
    teacher: str, drawings: Drawings, space: LatentSpace, tmp_path: Path
) -> None:
    training = Training(teacher, drawings, space, seed=0)
    write_weights(training, tmp_path)
    networks.autoencoder().save_pretrained(tmp_path / "vae")
    save_pipeline(teacher, tmp_path, tmp_path / "saved")
    flow = teacher == "transformer"
    absent = {"text_encoder_3": None, "tokenizer_3": None} if flow else {}
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "saved", dtype=torch.float32, **absent)
    extra = {"max_sequence_length": EMPTY_T5_TOKENS} if flow else {}
    pictures = pipeline(["a bus, noto style"] * 2, num_inference_steps=2, height=32, width=32, **extra).images
    assert [picture.size for picture in pictures] == [(32, 32)] * 2
    assert "trained" in write_sheet(training, space, tmp_path / "sheet.png")


def test_the_transformer_learns_from_the_text_states_that_its_pipeline_computes(
    drawings: Drawings, space: LatentSpace
) -> None:
    training = Training("transformer", drawings, space, seed=0)
    vae = networks.autoencoder()
    pipeline = networks.assemble("transformer", training.average, training.words, vae)
    captions = ["a bus, noto style", ""]
    with torch.no_grad():
        states, pooled = encode_for_transformer(training.average, training.tokenize(captions))
        found = pipeline.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, max_sequence_length=EMPTY_T5_TOKENS
        )
    assert torch.allclose(found[0], states, atol=1e-6)
    assert torch.allclose(found[2], pooled, atol=1e-6)
