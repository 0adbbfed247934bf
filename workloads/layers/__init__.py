"""Parts that are put into a network: LoRA adapters, compiled and recomputed blocks."""
