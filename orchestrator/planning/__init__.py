"""The plan of a sweep before it runs: trials, checks, memory, time and cost."""
