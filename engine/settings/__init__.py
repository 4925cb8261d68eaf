"""Settings from file, environment and flags, with every check. Only `engine.cli` uses this room."""
