"""What many write for this job: `redis-py` hears of changes, reads the hashes, and posts them, as many as wait at once.

python -m benchmarks.peers.script REDIS_URL SINK_URL
"""

from __future__ import annotations

import http.client
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import orjson
import redis

BATCH = 500
RETRY_S = 0.2
CHANNEL = "__keyevent@0__:hset"


def run(redis_url: str, sink_url: str) -> None:
    """Go on until killed."""
    client: Any = redis.Redis.from_url(redis_url, decode_responses=True)
    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(CHANNEL)
    post = _Poster(sink_url)
    while True:
        try:
            keys = _changed(pubsub)
            if keys:
                pipeline = client.pipeline(transaction=False)
                for key in keys:
                    pipeline.hgetall(key)
                bodies = [orjson.dumps(value).decode() for value in pipeline.execute()]
        except redis.ConnectionError:
            # The next question connects and subscribes anew.
            time.sleep(RETRY_S)
            continue
        if keys:
            post(orjson.dumps({"records": [{"id": key, "body": body} for key, body in zip(keys, bodies, strict=True)]}))


def _changed(pubsub: Any) -> list[str]:
    """Wait for a change; return the keys of all that have come, each once."""
    keys: dict[str, None] = {}
    message = pubsub.get_message(timeout=1.0)
    while message is not None:
        keys[message["data"]] = None
        message = pubsub.get_message(timeout=0.0) if len(keys) < BATCH else None
    return list(keys)


class _Poster:
    """Posts until it is accepted."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._path = place.path
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port or 80, timeout=30)

    def __call__(self, body: bytes) -> None:
        while not self._is_accepted(body):
            time.sleep(RETRY_S)

    def _is_accepted(self, body: bytes) -> bool:
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return answer.status == 200


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2])
