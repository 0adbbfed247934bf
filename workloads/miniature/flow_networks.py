"""Networks of the two miniature teachers that are trained by flow matching: the real classes, at toy sizes.

`sana` has SANA's parts: a transformer with linear self-attention and cross-attention, a deep compression
autoencoder and a decoder as text encoder. Its pictures are 32 x 32, the smallest that the stock pipeline
makes, and its latents 16 x 4 x 4. `sd3` has those of Stable Diffusion 3.5: joint attention of pictures and
texts, three text encoders, and the autoencoder of the other miniatures.
"""

from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
)

from workloads.miniature.networks import (
    LATENT_SIZE,
    SPECIAL,
    TOKENS,
    t5_text_encoder,
    tokenizer,
    word_tokenizer,
)
from workloads.miniature.world import vocabulary

SANA_PIXELS = 32
SHIFT = 3.0
"""Shift of the timesteps towards noise, as published for both families."""
CLIP_WIDTHS = (32, 48)
"""Of both CLIP text encoders; their sum is below `T5_WIDTH`, so that the pipeline pads their states."""
T5_WIDTH = 96
CLIP_SPECIAL = ("<pad>", "<unknown>", "<start>", "<end>")
"""Order of the special tokens: with the end token's id 2, transformers would pool another position."""


def deep_compression_autoencoder(large_decoder: bool = False) -> AutoencoderDC:
    """Return an untrained autoencoder of pictures (3, 32, 32) and latents (16, 4, 4)."""
    types, scales = ("ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"), ((), (), (), (5,))
    channels, layers = (16, 16, 32, 64), (0, 1, 1, 1)
    return AutoencoderDC(
        latent_channels=16,
        attention_head_dim=32,
        encoder_block_types=types,
        encoder_block_out_channels=channels,
        encoder_layers_per_block=layers,
        encoder_qkv_multiscales=scales,
        decoder_block_types=types,
        decoder_block_out_channels=(32, 32, 64, 64) if large_decoder else channels,
        decoder_layers_per_block=(0, 2, 2, 1) if large_decoder else layers,
        decoder_qkv_multiscales=scales,
    )


def gemma() -> Gemma2Model:
    """Return the untrained text encoder of `sana`; its embeddings enter the layers with unit variance."""
    config = Gemma2Config(
        vocab_size=len(SPECIAL) + len(vocabulary()),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=TOKENS,
        sliding_window=TOKENS,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
        attn_implementation="eager",
    )
    encoder = Gemma2Model(config)
    # The model multiplies them by the root of the width.
    nn.init.normal_(encoder.embed_tokens.weight, std=config.hidden_size**-0.5)
    return encoder


def sana_transformer() -> SanaTransformer2DModel:
    """Return an untrained transformer of 1.8 M parameters.

    It has positional embeddings, as SANA has for 4096 px, and the gates of its layers are open at first. With
    diffusers' small random gates and small text embeddings it learned no position in 1,000 steps.
    """
    network = SanaTransformer2DModel(
        sample_size=4,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_attention_heads=4,
        attention_head_dim=32,
        num_cross_attention_heads=4,
        cross_attention_head_dim=32,
        cross_attention_dim=128,
        caption_channels=64,
        num_layers=6,
        interpolation_scale=1,
    )
    for block in network.transformer_blocks:
        block.scale_shift_table.data[[2, 5]] = 1.0
    return network


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer of both CLIP text encoders of `sd3`."""
    return word_tokenizer([*CLIP_SPECIAL, *vocabulary()], start=True)


def projecting_clip(width: int) -> CLIPTextModelWithProjection:
    """Return an untrained CLIP text encoder of this width, with a pooled state of the same width."""
    config = CLIPTextConfig(
        vocab_size=len(CLIP_SPECIAL) + len(vocabulary()),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        pad_token_id=CLIP_SPECIAL.index("<pad>"),
        bos_token_id=CLIP_SPECIAL.index("<start>"),
        eos_token_id=CLIP_SPECIAL.index("<end>"),
    )
    return CLIPTextModelWithProjection(config)


def sd3_transformer() -> SD3Transformer2DModel:
    """Return an untrained transformer of 1.8 M parameters, with a second attention in its first two layers.

    The modulations start at zero (adaLN-Zero; Peebles and Xie 2023, section 3.2).
    """
    network = SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=3,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=96,
        pooled_projection_dim=sum(CLIP_WIDTHS),
        pos_embed_max_size=LATENT_SIZE // 2,
        dual_attention_layers=(0, 1),
        qk_norm="rms_norm",
    )
    for block in network.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            nn.init.zeros_(norm.linear.weight)
            nn.init.zeros_(norm.linear.bias)
    return network


def assemble_sana(vae: AutoencoderDC) -> DiffusionPipeline:
    """Return SANA's stock pipeline of untrained networks; its tokenizer adds a start token alone."""
    return SanaPipeline(
        tokenizer=word_tokenizer([*SPECIAL, *vocabulary()], start=True, end=False),
        text_encoder=gemma(),
        vae=vae,
        transformer=sana_transformer(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        ),
    )


def assemble_sd3(vae: AutoencoderKL) -> DiffusionPipeline:
    """Return the stock pipeline of Stable Diffusion 3, of untrained networks."""
    first, second = CLIP_WIDTHS
    return StableDiffusion3Pipeline(
        transformer=sd3_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae,
        text_encoder=projecting_clip(first),
        tokenizer=clip_tokenizer(),
        text_encoder_2=projecting_clip(second),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text_encoder(T5_WIDTH),
        tokenizer_3=tokenizer(start=False),
    )
