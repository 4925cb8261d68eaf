"""Short-lived processes that ask Redis and AWS in the supervisor's stead."""
