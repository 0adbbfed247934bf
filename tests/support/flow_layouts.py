"""Toys of flow-matching teachers, and of PixArt-Sigma, in folders with the layout that published ones have.

As `teacher_layouts.FAMILIES`; the weights are random.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    Flux2Transformer2DModel,
    PixArtTransformer2DModel,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model, Qwen3Config, Qwen3ForCausalLM

from tests.support import published_tokenizers
from tests.support.teacher_layouts import Change, published, save_clip, save_t5_encoder

WIDTH = 32
"""Width of the prompt's embeddings in most toys."""


def _sana(folder: Path) -> None:
    torch.manual_seed(0)
    SanaTransformer2DModel(
        in_channels=4, out_channels=4, sample_size=2, num_layers=2, caption_channels=WIDTH,
        num_attention_heads=4, attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=16,
        cross_attention_dim=32,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    blocks = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_types=blocks, decoder_block_types=blocks,
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 5 + ((5,),), decoder_qkv_multiscales=((),) * 5 + ((5,),),
        upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.41407,
    ).save_pretrained(folder / "vae")  # fmt: skip
    published(folder, "sana-600m")
    words = published_tokenizers.save_gemma(folder / "tokenizer")
    config = Gemma2Config(
        vocab_size=words, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=4096,
    )  # fmt: skip
    Gemma2Model(config).save_pretrained(folder / "text_encoder")


def _sd3(folder: Path) -> None:
    torch.manual_seed(0)
    SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, num_attention_heads=3,
        attention_head_dim=16, caption_projection_dim=48, joint_attention_dim=64,
        pooled_projection_dim=24 + 40, pos_embed_max_size=12, dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    ).save_pretrained(folder / "transformer")  # fmt: skip
    _autoencoder(scaling_factor=1.5305, shift_factor=0.0609).save_pretrained(folder / "vae")
    published(folder, "sd35-medium")
    projected = "CLIPTextModelWithProjection"
    save_clip(folder, "", "<|endoftext|>", projected, hidden_size=16, projection_dim=24)
    save_clip(folder, "_2", "!", projected, hidden_size=32, projection_dim=40, num_hidden_layers=3)
    save_t5_encoder(folder, "_3")


def _klein(folder: Path) -> None:
    torch.manual_seed(0)
    Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=2, latent_channels=4, sample_size=32,
    )  # fmt: skip
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    vae.save_pretrained(folder / "vae")
    published(folder, "flux2-klein-4b")
    _qwen3(folder, layers=30, template_file=True)


def _z_image(folder: Path) -> None:
    torch.manual_seed(0)
    network = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6], axes_lens=[1536, 512, 512],
    )  # fmt: skip
    for token in (network.x_pad_token, network.cap_pad_token):
        torch.nn.init.normal_(token)  # the class leaves them without values
    network.save_pretrained(folder / "transformer")
    _autoencoder(scaling_factor=0.3611, shift_factor=0.1159).save_pretrained(folder / "vae")
    published(folder, "z-image")
    _qwen3(folder, layers=3, template_file=False)


def _pixart_sigma(folder: Path) -> None:
    torch.manual_seed(0)
    PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_attention_heads=2,
        attention_head_dim=16, cross_attention_dim=32, caption_channels=64, num_layers=2,
        interpolation_scale=2, use_additional_conditions=False,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    _autoencoder(scaling_factor=0.13025, use_quant_conv=True, use_post_quant_conv=True).save_pretrained(
        folder / "vae"
    )
    published(folder, "pixart-sigma-512")
    save_t5_encoder(folder, "")


FLOW_FAMILIES: dict[str, Change] = {
    "sana": _sana,
    "sd3": _sd3,
    "klein": _klein,
    "z-image": _z_image,
    "pixart-sigma": _pixart_sigma,
}
"""Writes the folder of each family, as published."""


def _autoencoder(**options: Any) -> AutoencoderKL:
    """Return an autoencoder of pictures (3, 16, 16) and latents (4, 8, 8)."""
    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4,
        "sample_size": 16, "use_quant_conv": False, "use_post_quant_conv": False,
    }  # fmt: skip
    return AutoencoderKL(**{**sizes, **options})


def _qwen3(folder: Path, layers: int, template_file: bool) -> None:
    """Write tokenizer and text encoder; both folders are published with weights of the class with logits."""
    words = published_tokenizers.save_qwen(folder / "tokenizer", template_file)
    config = Qwen3Config(
        vocab_size=words, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder / "text_encoder", max_shard_size="200KB")
