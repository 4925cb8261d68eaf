"""AWS as the engine reaches it: access, ARNs, signed requests, the service's clock."""
