"""The ``scan`` source, for servers that publish nothing: passes over all keys that never end, one after the other."""
