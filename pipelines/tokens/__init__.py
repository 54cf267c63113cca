"""Room 3's light floor: the vocabulary and the one encoder that batch and serving share."""
