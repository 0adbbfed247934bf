"""Names of layers in public LoRA files of kohya's trainer, as facts to compare with.

SD 1.5: https://github.com/kohya-ss/sd-scripts/issues/1080 lists a network's keys, and
https://github.com/lllyasviel/stable-diffusion-webui-forge/issues/194 those of a file.
SDXL: `get_block_index` in https://github.com/kohya-ss/sd-scripts/blob/main/networks/lora.py tells blocks
apart by these beginnings; https://github.com/kohya-ss/sd-scripts/issues/1490 has residual layers, and
https://github.com/bmaltais/kohya_ss/issues/3105 those of transformers' layers.
"""

TRANSFORMER_LAYERS = (
    "transformer_blocks_0_attn1_to_q", "transformer_blocks_0_attn1_to_k", "transformer_blocks_0_attn1_to_v",
    "transformer_blocks_0_attn1_to_out_0", "transformer_blocks_0_attn2_to_q",
    "transformer_blocks_0_attn2_to_k", "transformer_blocks_0_attn2_to_v",
    "transformer_blocks_0_attn2_to_out_0", "transformer_blocks_0_ff_net_0_proj",
    "transformer_blocks_0_ff_net_2", "proj_in", "proj_out",
)  # fmt: skip
SD15_TRANSFORMERS = (
    *(f"lora_unet_down_blocks_{block}_attentions_{layer}" for block in (0, 1, 2) for layer in (0, 1)),
    "lora_unet_mid_block_attentions_0",
    *(f"lora_unet_up_blocks_{block}_attentions_{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)),
)
SD15_LAYERS = {f"{transformer}_{layer}" for transformer in SD15_TRANSFORMERS for layer in TRANSFORMER_LAYERS}
"""All 192 layers of the UNet in a LoRA of that trainer."""
WEIGHTS = (".alpha", ".lora_down.weight", ".lora_up.weight")
"""Entries of each layer."""
SDXL_LAYERS = {
    "down_blocks.0.resnets.0.conv1": "lora_unet_input_blocks_1_0_in_layers_2",
    "down_blocks.0.resnets.1.time_emb_proj": "lora_unet_input_blocks_2_0_emb_layers_1",
    "down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
    "down_blocks.1.attentions.0.proj_in": "lora_unet_input_blocks_4_1_proj_in",
    "down_blocks.1.resnets.0.conv_shortcut": "lora_unet_input_blocks_4_0_skip_connection",
    "down_blocks.2.attentions.1.transformer_blocks.1.attn2.to_k": (
        "lora_unet_input_blocks_8_1_transformer_blocks_1_attn2_to_k"
    ),
    "mid_block.resnets.0.conv2": "lora_unet_middle_block_0_out_layers_3",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj": (
        "lora_unet_middle_block_1_transformer_blocks_0_ff_net_0_proj"
    ),
    "up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_out.0": (
        "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_out_0"
    ),
    "up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_2_conv",
    "up_blocks.2.resnets.2.conv1": "lora_unet_output_blocks_8_0_in_layers_2",
    "time_embedding.linear_1": "lora_unet_time_embed_0",
    "add_embedding.linear_2": "lora_unet_label_emb_0_2",
    "conv_out": "lora_unet_out_2",
}
"""Some layers of SDXL's UNet: by their names in diffusers, those in such files."""
