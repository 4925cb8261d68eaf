"""Real clusters and Sentinels for tests, made with plain commands and without root.

::

    with cluster("redis-7.0", primaries=3, replicas=1) as made:
        made.client().hset("cart:1", "items", "[]")
        made.failover(made.owner_of(b"cart:1"), how="kill")

Everything is on 127.0.0.1, in temporary folders, and ends with the block, or with this process.
"""

from tests.cluster.nodes import ADMIN, SECRET, Known, Node, wait_until
from tests.cluster.sentinel import Watched, sentinels
from tests.cluster.whole import NODE_TIMEOUT_MS, Cluster, Failover, Migration, cluster

__all__ = [
    "ADMIN",
    "NODE_TIMEOUT_MS",
    "SECRET",
    "Cluster",
    "Failover",
    "Known",
    "Migration",
    "Node",
    "Watched",
    "cluster",
    "sentinels",
    "wait_until",
]
