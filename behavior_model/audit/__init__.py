"""What a model gives away about people, and whom it serves worse."""
