"""One-step students: initialisation, sampling, saving, averaging and merging."""
