"""What a benchmark of next items is judged beside: one file per kind, all called the same way."""
