"""One training step on one worker, and the memory that it needs."""
