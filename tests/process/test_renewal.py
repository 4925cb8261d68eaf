"""Connections that IAM let in are authenticated again, without a gap."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from engine.capture.feed import renewal
from engine.capture.feed.listener import PING_MS, Listener, Phase
from engine.capture.feed.subscription import Subscription
from engine.config import RedisSettings
from engine.errors import RedisRefused
from engine.redis import connection
from engine.redis.connection import IAM_LIFE_MS
from engine.redis.credentials import Credentials
from engine.sandbox.valkey import ValkeyServer
from tests.capture_rig import feed_of, wait_for
from tests.servers import every_server
from tests.shard_plan import plan_shards


class Tokens:
    """Stands for AWS: each connect has the token of its moment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Credentials | Exception = Credentials("engine", "token-1")
        self.made = 0
        for module in (connection, renewal):
            monkeypatch.setattr(module, "credentials_of", self.make)

    def make(self, settings: RedisSettings) -> Credentials:
        self.made += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


class Heard:
    """A listener whose time is told, and what it heard."""

    def __init__(self, server: ValkeyServer) -> None:
        settings = RedisSettings(url=server.url, username="engine", iam="elasticache")
        feed = feed_of(plan_shards(1, 0, ())[0])
        self.listener = Listener(Subscription(settings, 0, feed, 0, 65_536), "Kh", chance=lambda: 1.0)
        self.moment_ms = 0
        self.keys: list[bytes] = []

    def turn(self) -> bool:
        """Go on for as long as a ping takes; tell whether it listens."""
        self.moment_ms += PING_MS
        if self.listener.advance(self.moment_ms):
            next_reply = self.listener.next_reply()
            while (reply := next_reply()) is not False:
                if isinstance(reply, list) and reply[0] == b"pmessage":
                    self.keys.append(reply[2])
                else:
                    self.listener.handle(reply)
        return self.listener.phase is Phase.LISTENING

    def hears(self, client: redis.Redis, key: str) -> bool:
        client.hset(key, "a", "b")
        return self.turn() and f"__keyspace@0__:{key}".encode() in self.keys


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> Tokens:
    return Tokens(monkeypatch)


def server_with_user(binary: Any) -> ValkeyServer:
    user = "user engine on >token-1 ~* &* +@all"
    return ValkeyServer(binary=binary, config={"notify-keyspace-events": "Kh", "user": [user.removeprefix("user ")]})


def auths(client: redis.Redis) -> int:
    return int(client.info("commandstats")["cmdstat_auth"]["calls"])


@every_server
def test_authenticated_again(server_binary: Any, tokens: Tokens) -> None:
    """When its time has come, a feed authenticates both of its connections anew, and goes on hearing all along."""
    with server_with_user(server_binary) as server, redis.Redis(port=server.port) as client:
        heard = Heard(server)
        wait_for(lambda: heard.turn() and heard.hears(client, "before"), "it hears")
        client.execute_command("ACL", "SETUSER", "engine", "resetpass", ">token-2")
        tokens.now = Credentials("engine", "token-2")
        assert (auths(client), tokens.made) == (2, 2)
        assert heard.listener.connection is not None
        heard.listener.connection.renewal_ms = heard.moment_ms
        wait_for(lambda: heard.turn() and auths(client) == 4, "it has authenticated again")
        assert heard.listener.connection.renewal_ms > heard.moment_ms - 600 * PING_MS + IAM_LIFE_MS
        wait_for(lambda: heard.hears(client, "after"), "it still hears")
        assert (heard.listener.completions, tokens.made) == (1, 3)
        heard.listener.close()


def test_refused_renewal(tokens: Tokens) -> None:
    """A renewal that fails, for want of a token or of the server's consent, is tried again; the feed hears on."""
    with server_with_user(None) as server, redis.Redis(port=server.port) as client:
        heard = Heard(server)
        wait_for(lambda: heard.turn() and heard.hears(client, "before"), "it hears")
        assert heard.listener.connection is not None
        for wrong in (RedisRefused("no token"), Credentials("engine", "wrong")):
            tokens.now, made = wrong, tokens.made
            heard.listener.connection.renewal_ms = heard.moment_ms
            wait_for(lambda: heard.turn() and tokens.made > made + 1, "it was tried again")  # noqa: B023
            wait_for(lambda: heard.hears(client, f"after-{tokens.made}"), "it still hears")
        tokens.now = Credentials("engine", "token-1")
        done = auths(client)
        wait_for(lambda: heard.turn() and auths(client) >= done + 2, "both have authenticated")
        assert heard.listener.completions == 1
        heard.listener.close()
