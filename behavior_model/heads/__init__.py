"""Heads: each answers one kind of question from the frozen backbone and the memories."""
