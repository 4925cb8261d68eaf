"""The nodes of a cluster as commands see them: who has a key, and where a question is passed on to."""
