"""Redis as the engine reaches it: URLs, the hot-path connection, its errors and their remedies."""
