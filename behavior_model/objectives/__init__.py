"""Objectives of pretraining: every label is read off the sequence itself."""
