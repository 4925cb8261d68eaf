"""A route's keys: waiting, in flight, held; batches, retries, limits, what an outcome means."""
