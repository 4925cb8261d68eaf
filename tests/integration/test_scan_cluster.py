"""The ``scan`` source on clusters: one endpoint that allows little, as serverless caches do, and nodes that change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import Cluster, cluster
from tests.integration.test_cluster_path import Writer, values_of
from tests.integration.test_scan_path import DENIED, ROUTE
from tests.support import PathUnderTest, wait_for, whole_path
from tests.tls_proxy import make_certificates, tls_in_front_of

SETTINGS = """\
[redis]
url = "{url}"
username = "scanner"
password = "pw"
{redis}
[capture]
source = "scan"
scan_period_s_max = 1.0
topology_interval_ms = 1_000
[delivery]
invokers = 2
retry_backoff_ms_max = 500
dead_letter_file = "{folder}/dead_letters.jsonl"
backlog_folder = "{folder}/backlog"
[supervision]
status_file = "{folder}/status.json"
checkpoint_file = "{folder}/checkpoint"
"""
USERS = (f"scanner on >pw ~* &* +@all {DENIED}",)
WAIT_S = 120.0


@contextmanager
def engine_at(folder: Path, url: str, redis: Sequence[str] = ()) -> Iterator[PathUnderTest]:
    """Yield an engine that scans what is there, and nothing else is allowed to it."""
    with whole_path(folder) as path:
        path.config.write_text(SETTINGS.format(url=url, folder=folder, redis="\n".join(redis)) + ROUTE)
        path.start()
        yield path
        assert path.stop() == 0, path.log()


def wait_until_equal(path: PathUnderTest, made: Cluster) -> None:
    """Return once the function was given the last value of each key, and of those that are gone that they are."""
    wanted = values_of(made)

    def is_equal() -> bool:
        held = {key: value for key, value in path.last().items() if value is not None}
        return held == wanted

    wait_for(is_equal, f"equal values; the log says:\n{path.log()[-3_000:]}", WAIT_S)


def delete(client: Any, *numbers: int) -> None:
    for number in numbers:
        client.delete(f"cart:{number}")


def test_one_endpoint_that_allows_little(tmp_path: Path) -> None:
    """Cluster mode, TLS, one address, no notifications, no CONFIG, no CLUSTER SLOTS: what changes is found."""
    certificates = make_certificates(tmp_path)
    with cluster(primaries=1, users=USERS, config={"notify-keyspace-events": ""}) as made:
        (node,) = made.primaries()
        with tls_in_front_of(node.port, certificates) as port:
            client = made.client()
            for number in range(600):
                client.hset(f"cart:{number}", "n", str(number))
            url = f"rediss://127.0.0.1:{port}"
            with engine_at(tmp_path, url, [f'tls_ca_file = "{certificates.authority}"']) as path:
                wait_until_equal(path, made)
                client.hset("cart:5", "n", "other")
                delete(client, 6, 7)
                wait_until_equal(path, made)
                assert path.last()[b"cart:6"] is None


def test_a_server_with_tls_of_its_own(tmp_path: Path) -> None:
    """The same on a server that speaks TLS itself."""
    with cluster("redis-7.0", primaries=1, tls=True, users=USERS, config={"notify-keyspace-events": ""}) as made:
        options = made.client().get_connection_kwargs()
        client = made.client()
        for number in range(300):
            client.hset(f"cart:{number}", "n", str(number))
        files = [f'{ours} = "{options[theirs]}"' for ours, theirs in (
            ("tls_ca_file", "ssl_ca_certs"), ("tls_cert_file", "ssl_certfile"), ("tls_key_file", "ssl_keyfile"),
        )]  # fmt: skip
        (node,) = made.primaries()
        with engine_at(tmp_path, f"rediss://{node.address}", files) as path:
            wait_until_equal(path, made)
            client.hset("cart:5", "n", "other")
            delete(client, 6)
            wait_until_equal(path, made)


def test_a_replica_takes_over(tmp_path: Path) -> None:
    """While a writer writes and deletes, a primary is replaced; each key's last value arrives."""
    users = (USERS[0].replace("-cluster|slots", ""),)
    with (
        cluster(primaries=3, replicas=1, users=users, config={"notify-keyspace-events": ""}) as made,
        engine_at(tmp_path, f"redis://{made.alive()[0].address}") as path,
        Writer(made) as writer,
    ):
        writer.wait_for_more()
        made.failover(made.primaries()[0])
        writer.wait_for_more()
        writer.end()
        delete(made.client(), *range(20))
        wait_until_equal(path, made)


def test_slots_that_move(tmp_path: Path) -> None:
    """Keys that move to another node while they are written and scanned are neither lost nor taken for deleted."""
    users = (USERS[0].replace("-cluster|slots", ""),)
    with cluster(primaries=3, users=users, config={"notify-keyspace-events": ""}) as made:
        first, second, _ = made.primaries()
        with engine_at(tmp_path, f"redis://{first.address}") as path, Writer(made) as writer:
            writer.wait_for_more()
            ours = [slot for low, high in made.slots_of(first) for slot in range(low, high + 1)][:800]
            made.move_slots(ours, first, second)
            writer.wait_for_more()
            writer.end()
            delete(made.client(), *range(20))
            wait_until_equal(path, made)
