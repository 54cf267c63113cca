"""Room 7: the shelf. Embeddings, activity and user state, point-in-time correct, in Feast."""
