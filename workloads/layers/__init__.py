"""Changes to the layers of a network: LoRA adapters, compiled blocks, recomputed activations."""
