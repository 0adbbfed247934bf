"""A tiny SDXL pipeline of the real classes with random weights."""

from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from workloads.miniature import networks

POOLED, SIZE = 24, 16
"""Widths of the pooled text embedding and of the embedding of each of SDXL's six size inputs."""


def second_text_encoder() -> CLIPTextModelWithProjection:
    """Return a text encoder with other widths than the first, as SDXL has."""
    first = networks.clip_text_encoder().config.to_dict()
    wider = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": POOLED, "num_hidden_layers": 3}
    return CLIPTextModelWithProjection(CLIPTextConfig(**{**first, **wider}))


def network(pooled: int = POOLED) -> UNet2DConditionModel:
    """Return a UNet with SDXL's structure: a first level without cross-attention, then transformer blocks."""
    return UNet2DConditionModel(
        sample_size=networks.LATENT_SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        norm_num_groups=8,
        attention_head_dim=(1, 2),
        cross_attention_dim=networks.TEXT_WIDTH + 32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=SIZE,
        projection_class_embeddings_input_dim=pooled + 6 * SIZE,
    )


def save(folder: Path) -> None:
    """Write the pipeline folder, always with the same weights."""
    torch.manual_seed(0)
    pipeline = StableDiffusionXLPipeline(
        vae=networks.autoencoder(),
        text_encoder=networks.clip_text_encoder(),
        text_encoder_2=second_text_encoder(),
        tokenizer=networks.tokenizer(start=True),
        tokenizer_2=networks.tokenizer(start=True),
        unet=network(),
        scheduler=networks.scheduler("unet-epsilon"),
    )
    pipeline.save_pretrained(folder)
