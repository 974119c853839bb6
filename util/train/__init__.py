"""Training: loss, optimizer, schedule, moving average, the step, the epoch, the run's checkpoints."""
