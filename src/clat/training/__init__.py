"""Training: stages, schedules, the loop, checkpoints."""
