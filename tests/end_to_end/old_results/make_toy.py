"""Writes the toy teacher's pipeline folder `toy`: Stable Diffusion's classes, random weights, seed 0."""

import sys

import torch  # isort: skip
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from workloads.miniature import networks
from workloads.miniature.world import vocabulary

WIDTH = 8
torch.manual_seed(0)
vae = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2, mid_block_add_attention=False,
    latent_channels=4, sample_size=16,
)  # fmt: skip
text_encoder = CLIPTextModel(CLIPTextConfig(
    vocab_size=len(networks.SPECIAL) + len(vocabulary()), hidden_size=WIDTH, intermediate_size=WIDTH,
    num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=networks.TOKENS,
    projection_dim=WIDTH, pad_token_id=0, bos_token_id=1, eos_token_id=2,
))  # fmt: skip
unet = UNet2DConditionModel(
    sample_size=8, down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    block_out_channels=(4,), layers_per_block=1,
    norm_num_groups=2, attention_head_dim=2, cross_attention_dim=WIDTH,
)  # fmt: skip
for part in (vae, text_encoder, unet):
    print(type(part).__name__, sum(p.numel() for p in part.parameters()))
StableDiffusionPipeline(
    vae=vae, text_encoder=text_encoder, unet=unet, tokenizer=networks.tokenizer(start=True),
    scheduler=networks.scheduler("unet-epsilon"), safety_checker=None, feature_extractor=None,
    requires_safety_checker=False,
).save_pretrained(sys.argv[1])  # fmt: skip
