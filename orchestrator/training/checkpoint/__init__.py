"""Checkpoints: the manifest, the tensors, and the store that holds them."""
