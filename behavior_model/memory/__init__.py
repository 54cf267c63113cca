"""Memories beside the weights: what this user did, what followed what, what texts say."""
