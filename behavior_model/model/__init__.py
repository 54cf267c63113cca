"""The backbone: event embedder, item tower, transformer and the predictions made at a probe."""
