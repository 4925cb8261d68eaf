"""The nodes of the server while the engine runs: asked for, numbered, and handed to the children."""
