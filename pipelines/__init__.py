"""Rooms 1 to 4: raw business data in, checked events and token sequences out."""
