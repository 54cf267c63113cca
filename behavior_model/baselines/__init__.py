"""Strong, well-known alternatives that every head is judged beside."""
