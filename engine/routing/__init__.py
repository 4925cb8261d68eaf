"""Which keys and events go to which function, and which part of the keyspace each host and shard has.  (pure)"""
