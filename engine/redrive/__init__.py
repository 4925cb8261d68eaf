"""Dead letters, again: their keys are marked dirty in the running engine."""
