"""Which keys and events go to which function, and which part of the keyspace is whose.  (pure)"""
