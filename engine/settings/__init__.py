"""Settings from file, environment and flags, with every check. Only `engine.commands` uses this room."""
