"""The functions that the engine invokes; none imports anything of `engine`."""
