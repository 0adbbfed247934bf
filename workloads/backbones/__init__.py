"""Teachers of every supported family: files, networks, text encoders and noise schedules."""
