"""Training: networks, data loading, losses, the Lightning module and checkpoints. Needs the extra `train`."""
