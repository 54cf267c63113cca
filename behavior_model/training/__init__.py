"""How the backbone is trained: segments, batches, the loop, checkpoints, Ray Train, tracking."""
