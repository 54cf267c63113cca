"""Benchmarks over plain interaction files: one protocol, one recipe, every baseline beside it."""
