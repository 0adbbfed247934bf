"""Teachers of every supported family: files, networks, text encoders, noise schedules."""
