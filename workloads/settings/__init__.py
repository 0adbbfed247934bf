"""Settings of a training and of its scorers, with their published defaults; imports no torch."""
