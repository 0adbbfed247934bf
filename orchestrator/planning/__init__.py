"""Plans of sweeps before anything starts: trials, checks, memory, time and cost."""
