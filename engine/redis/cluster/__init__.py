"""The nodes of a cluster as commands see them: which node has a key, and where a question is redirected."""
