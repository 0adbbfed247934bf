"""Networks of the three miniature teachers: the real classes of diffusers and transformers, at toy sizes.

Pictures are 16 x 16, and the autoencoder halves each side: latents are 4 x 8 x 8. Cross-attention is at both
the 8 x 8 and the 4 x 4 level of the UNet, and a 2 x 2 level without it distinguishes the quadrants: without
either, the teacher never learns shape and position.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from workloads.miniature.world import PIXELS, vocabulary

TOKENS = 16
"""Length of a tokenised prompt."""
TEXT_WIDTH = 64
LATENT_SIZE = PIXELS // 2
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
"""Special tokens; their indices are ids in the configs of the text encoders."""


def tokenizer(start: bool) -> PreTrainedTokenizerFast:
    """Return the tokenizer of the world's vocabulary, with a start token (CLIP) or without (T5)."""
    return word_tokenizer([*SPECIAL, *vocabulary()], start)


def word_tokenizer(
    words: Sequence[str], start: bool, end: bool = True, **options: Any
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, in the order of `words`, which must contain `SPECIAL`.

    `start` and `end` say which of these tokens it adds to a text. `options` go to the constructor of
    `PreTrainedTokenizerFast`.
    """
    table = {word: index for index, word in enumerate(words)}
    core = Tokenizer(WordLevel(table, unk_token="<unknown>"))
    core.normalizer = Lowercase()
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(
        single=("<start> " if start else "") + "$A" + (" <end>" if end else ""),
        special_tokens=[("<start>", table["<start>"]), ("<end>", table["<end>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=TOKENS,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
        **options,
    )


def autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder of pictures (3, 16, 16) and latents (4, 8, 8).

    It has two norm groups, as colour is lost with one channel per group.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
        latent_channels=4,
        sample_size=PIXELS,
    )


def clip_text_encoder() -> CLIPTextModel:
    """Return the untrained text encoder of both UNets."""
    words = len(SPECIAL) + len(vocabulary())
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=TEXT_WIDTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return CLIPTextModel(config)


def t5_text_encoder(width: int = TEXT_WIDTH) -> T5EncoderModel:
    """Return an untrained T5 text encoder, by default that of PixArt."""
    config = T5Config(
        vocab_size=len(SPECIAL) + len(vocabulary()),
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=2,
    )
    return T5EncoderModel(config)


def unet() -> UNet2DConditionModel:
    """Return an untrained UNet of 1.7 M parameters; this class reads `attention_head_dim` as heads."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
    )


def pixart() -> PixArtTransformer2DModel:
    """Return an untrained transformer with PixArt-alpha's outputs: epsilon and an unused variance."""
    return PixArtTransformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=32,
        cross_attention_dim=128,
        caption_channels=TEXT_WIDTH,
        num_layers=6,
        use_additional_conditions=False,
    )


def scheduler(teacher: str) -> DDIMScheduler:
    """Return the noise schedule of the family that `teacher` represents."""
    if teacher == "pixart":
        return DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if teacher == "unet-v" else "epsilon",
    )


def assemble(
    teacher: str, network: torch.nn.Module, text_encoder: torch.nn.Module, vae: AutoencoderKL
) -> DiffusionPipeline:
    """Return the parts as the stock diffusers pipeline of the teacher's family."""
    parts = {"vae": vae, "text_encoder": text_encoder, "scheduler": scheduler(teacher)}
    if teacher == "pixart":
        return PixArtAlphaPipeline(**parts, tokenizer=tokenizer(start=False), transformer=network)
    return StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer(start=True),
        unet=network,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
