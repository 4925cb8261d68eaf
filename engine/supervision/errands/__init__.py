"""Short-lived processes that ask Redis and AWS on the supervisor's behalf."""
