"""Dead letters, and where they go."""
