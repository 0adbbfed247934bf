"""What a sweep will do before it does it: trials, checks, memory, time and cost."""
