"""Modules that every other package may use: errors, storage, digests, redaction, signals, logging."""
