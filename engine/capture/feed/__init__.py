"""One feed: a subscription on a node, its gaps and their repair, and up to when everything in it was heard."""
