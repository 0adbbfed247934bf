"""Students of one, two or four steps: initialisation, sampling, saving, averaging and merging."""
