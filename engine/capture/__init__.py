"""A subscriber process: Redis → ring. Never imports `engine.delivery`."""
