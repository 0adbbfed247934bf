"""Prompts: from files to shards of embeddings, and from shards to the batches of a training."""
