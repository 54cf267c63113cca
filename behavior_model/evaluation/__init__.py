"""How well every head does, always beside strong baselines on the same split."""
