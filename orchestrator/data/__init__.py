"""Prompts: from files to shards of embeddings, and from shards to a training group."""
