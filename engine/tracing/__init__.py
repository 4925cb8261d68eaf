"""What is said of changes that are traced, from a subscriber to whoever exports it."""
