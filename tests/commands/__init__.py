"""Every write command of every server that is tested, and values of every type and size class."""
