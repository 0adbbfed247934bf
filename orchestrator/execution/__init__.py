"""Ray: the launch, its stages, the two searches and the processes that they start."""
