"""Training: one visible loop, checkpoints, adapters."""
