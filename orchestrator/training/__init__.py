"""The inside of a training group's workers: engines, checkpoints, metrics, watchdog."""
