"""The SDXL family on a tiny pipeline of the real classes, from prompts to a saved student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from tests.support import tiny_sdxl
from workloads.attention import AttentionGuidance
from workloads.backbones.backbone import Backbone, load_backbone
from workloads.backbones.file_checks import check_files
from workloads.backbones.prompts.text_encoder import TextEncoder
from workloads.backbones.prompts.text_encoder_files import encoder_digest
from workloads.backbones.shape_checks import check_shapes
from workloads.backbones.teacher_pipeline import call_arguments, generate_images
from workloads.objectives.batch import Batch
from workloads.objectives.pgsb import PGSB
from workloads.settings.objectives.pgsb import PGSBSettings
from workloads.settings.train import AttentionGuidanceSettings
from workloads.students.student import decode, generate, load_autoencoder, new_student, save_student
from workloads.training.step import make_engines, train_step

PROMPTS = ["a large red circle", "a tiny blue square on a white background"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sdxl") / "teacher"
    tiny_sdxl.save(folder)
    return str(folder)


def stock(folder: str) -> StableDiffusionXLPipeline:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    assert type(pipeline) is StableDiffusionXLPipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise_for(backbone: Backbone) -> Tensor:
    return torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))


def test_prompts_match_stock_pipeline(source: str) -> None:
    encoded = TextEncoder(source).encode([*PROMPTS, ""])
    with torch.no_grad():
        prompts, empty, pooled, pooled_empty = stock(source).encode_prompt(PROMPTS)
    assert encoded.mask is None and encoded.pooled is not None
    torch.testing.assert_close(encoded.embeddings, torch.cat([prompts, empty[:1]]))
    torch.testing.assert_close(encoded.pooled, torch.cat([pooled, pooled_empty[:1]]))
    assert not empty.any() and not pooled_empty.any()


def test_empty_prompt_is_encoded_if_configured(source: str, tmp_path: Path) -> None:
    for part in Path(source).iterdir():
        (tmp_path / part.name).symlink_to(part)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    encoded = TextEncoder(str(tmp_path)).encode([""])
    with torch.no_grad():
        _, empty, _, pooled_empty = stock(str(tmp_path)).encode_prompt(PROMPTS[:1])
    torch.testing.assert_close(encoded.embeddings, empty)
    torch.testing.assert_close(encoded.pooled, pooled_empty)
    assert empty.any()


def test_embeddings_and_size_affect_prediction(source: str) -> None:
    backbone, prompts = load_backbone(source), TextEncoder(source).encode(PROMPTS)
    noise, t = noise_for(backbone), torch.tensor([500, 500])
    assert backbone.latent_scale == 2 and prompts.pooled is not None

    def predicted(backbone: Backbone, embeddings: Tensor, pooled: Tensor) -> Tensor:
        return backbone.predict(backbone.network, noise, t, type(prompts)(embeddings, None, pooled))

    plain = predicted(backbone, prompts.embeddings, prompts.pooled)
    larger = Backbone(source, backbone.family, backbone.network, backbone.schedule, 399, latent_scale=8)
    others = [
        predicted(backbone, prompts.embeddings.flip(0), prompts.pooled),
        predicted(backbone, prompts.embeddings, prompts.pooled.flip(0)),
        predicted(larger, prompts.embeddings, prompts.pooled),
    ]
    assert all((other - plain).abs().max() > 1e-5 for other in others)


def trained(backbone: Backbone, encoder: TextEncoder) -> torch.nn.Module:
    """Return a student after one training step."""
    train, student = PGSBSettings(learning_rate=1e-3), new_student(backbone)
    objective = PGSB(backbone, encoder.encode([""]), train)
    for parameter in objective.fake_score.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weight = student.get_parameter("add_embedding.linear_1.weight")
    before = weight.detach().clone()
    losses = train_step(
        objective,
        make_engines(student, objective, train),
        Batch(encoder.encode(PROMPTS)),
        objective.draw(2, torch.Generator().manual_seed(0)),
    )
    assert losses.isfinite().all()
    assert not torch.equal(weight, before)
    return student.eval()


def test_student_opens_with_stock_diffusers(source: str, tmp_path: Path) -> None:
    backbone, encoder = load_backbone(source), TextEncoder(source)
    assert backbone.start_timestep == 399
    student, folder = trained(backbone, encoder), tmp_path / "student"
    save_student(backbone, student, folder)
    pipeline, noise, prompts = stock(str(folder)), noise_for(backbone), encoder.encode(PROMPTS)
    calls: list[dict[str, Any]] = []
    pipeline.unet.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    arguments = {
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        **call_arguments(pipeline),
        "latents": noise,
    }
    image = pipeline(PROMPTS, output_type="pt", **arguments).images
    latents = generate(backbone, student, noise, prompts)
    (call,) = calls
    assert call["added_cond_kwargs"]["time_ids"].tolist() == [[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 2
    torch.testing.assert_close(call["added_cond_kwargs"]["text_embeds"], prompts.pooled)
    ours = decode(load_autoencoder(source), latents)
    torch.testing.assert_close(torch.as_tensor(image) * 2 - 1, ours, rtol=0, atol=0.02)
    assert ours.std() > 0.05


def test_negative_prompt_changes_output(source: str) -> None:
    backbone, encoder = load_backbone(source), TextEncoder(source)
    noise, prompts = noise_for(backbone), encoder.encode(PROMPTS)
    settings = AttentionGuidanceSettings("nag", 4.0)
    guidance = AttentionGuidance(backbone.network, encoder.encode(["green"]), settings)
    plain, steered = (generate(backbone, backbone.network, noise, prompts, g) for g in (None, guidance))
    assert (plain - steered).abs().max() > 1e-3


def test_teacher_generates_images(source: str) -> None:
    assert generate_images(stock(source), PROMPTS, steps=2, guidance_scale=3.0).shape == (2, 3, 16, 16)


def test_folder_passes_checks(source: str) -> None:
    check_files(source)
    assert check_shapes(source)["add_embedding.linear_1.weight"] == (
        64,
        tiny_sdxl.POOLED + 6 * tiny_sdxl.SIZE,
    )


def copied(source: str, folder: Path, name: str, **changes: object) -> str:
    """Copy the folder, with some keys of one JSON file changed."""
    for path in Path(source).rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    content = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps(content))
    return str(folder)


def test_mismatched_second_encoder_is_refused(source: str, tmp_path: Path) -> None:
    missing = copied(source, tmp_path / "a", "model_index.json", text_encoder_2=[None, None])
    with pytest.raises(ValueError, match=r"model_index\.json lists no text_encoder_2"):
        check_files(missing)
    narrow = copied(source, tmp_path / "b", "model_index.json")
    tiny_sdxl.network(pooled=7).save_pretrained(tmp_path / "b" / "unet")
    with pytest.raises(ValueError, match=r"its unet has pooled width 7, but its other components have 24"):
        check_shapes(narrow)


def test_digest_covers_both_encoders(source: str, tmp_path: Path) -> None:
    changed = copied(source, tmp_path, "text_encoder_2/config.json", note="changed")
    assert encoder_digest(changed) != encoder_digest(source)
