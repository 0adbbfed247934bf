"""Networks of the drawn world's two teachers: the real classes of diffusers and transformers, at toy sizes.

Latents are 16 x 8 x 8. Each teacher has small CLIP text encoders of its own, which are trained with it.
"""

from collections.abc import Sequence

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
)

from workloads.drawings.latent_space import CHANNELS, PATCH
from workloads.drawings.pictures import PIXELS
from workloads.miniature.networks import TOKENS, word_tokenizer

LATENT_SIZE = PIXELS // PATCH
TEXT_WIDTH = 128


def tokens_of(words: Sequence[str]) -> list[str]:
    """Return the tokens of a vocabulary; the end token is last, where CLIP looks for it."""
    return ["<pad>", "<unknown>", *words, "<start>", "<end>"]


def tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a vocabulary, without the special tokens in it."""
    return word_tokenizer(tokens_of(words), start=True, model_input_names=["input_ids", "attention_mask"])


def _text_config(words: Sequence[str], width: int) -> CLIPTextConfig:
    count = len(tokens_of(words))
    return CLIPTextConfig(
        vocab_size=count,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        pad_token_id=0,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
    )


def unet() -> UNet2DConditionModel:
    """Return an untrained UNet of 5.9 M parameters; a level of 2 x 2 tells the quadrants apart."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        norm_num_groups=8,
        # This class reads it as the number of heads.
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTH,
    )


def transformer() -> SD3Transformer2DModel:
    """Return an untrained transformer of 3.5 M parameters."""
    return SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=1,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=LATENT_SIZE,
    )


def autoencoder() -> AutoencoderKL:
    """Return an untrained autoencoder of 0.67 M parameters; its latents need no scaling."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
        latent_channels=CHANNELS,
        sample_size=PIXELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def new_parts(teacher: str, words: Sequence[str]) -> nn.ModuleDict:
    """Return the untrained networks of "unet" or "transformer", which are trained together."""
    if teacher == "unet":
        return nn.ModuleDict({"net": unet(), "text": CLIPTextModel(_text_config(words, TEXT_WIDTH))})
    half = _text_config(words, TEXT_WIDTH // 2)
    texts = {name: CLIPTextModelWithProjection(half) for name in ("text", "text_2")}
    return nn.ModuleDict({"net": transformer(), **texts})


def scheduler(teacher: str) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """Return the noise schedule of a teacher: Stable Diffusion 2's with v, or flow matching."""
    if teacher == "transformer":
        return FlowMatchEulerDiscreteScheduler(shift=1.0)
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def assemble(
    teacher: str, parts: nn.ModuleDict, words: Sequence[str], vae: AutoencoderKL
) -> DiffusionPipeline:
    """Return the parts as the stock pipeline of the teacher's family."""
    common = {"vae": vae, "scheduler": scheduler(teacher), "text_encoder": parts["text"]}
    if teacher == "unet":
        return StableDiffusionPipeline(
            **common,
            tokenizer=tokenizer(words),
            unet=parts["net"],
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusion3Pipeline(
        **common,
        transformer=parts["net"],
        tokenizer=tokenizer(words),
        text_encoder_2=parts["text_2"],
        tokenizer_2=tokenizer(words),
        text_encoder_3=None,
        tokenizer_3=None,
    )
