"""Rooms 5 and 6: the backbone, its pretraining, and everything that is answered from it."""
