"""What a training group does inside its workers: engines, checkpoints, metrics, watchdog."""
