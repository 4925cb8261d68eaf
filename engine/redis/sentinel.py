"""The primary of a service as Sentinels name it, asked for each connection.

Sentinels are asked in turn, beginning with the one that answered last. What one names may be wrong for a moment around
a failover: whoever connects checks the role that the server itself reports, and asks further if it differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import hiredis

from engine.errors import RedisError, RedisRefused
from engine.redis.address import Address, join, split
from engine.redis.errors import nobody_answers, refusal

CONNECT_MS_MAX = 1_000
"""A Sentinel that does not answer for this long is skipped: there are others."""

Ask = Callable[[Address, Sequence[tuple[str, ...]]], list[Any]]
"""Sends commands to a Sentinel, and returns its replies; raises `RedisError`."""

_last_answered: dict[tuple[tuple[str, int], ...], tuple[str, int]] = {}


class Named(NamedTuple):
    """A primary as a Sentinel names it: ``host:port``, and the number of the configuration that made it one."""

    place: str
    epoch: int


def sentinels_of(address: Address) -> list[Address]:
    """Return the addresses of a service's Sentinels, the one that answered last first."""
    last = _last_answered.get(address.sentinels)
    places = sorted(address.sentinels, key=lambda place: place != last)
    return [Address(host, port, 0, address.tls) for host, port in places]


def primaries(address: Address, ask: Ask) -> Iterator[Named]:
    """Yield what each Sentinel that answers and knows the service names; raise `RedisError` if none does."""
    problems: list[RedisError] = []
    named = 0
    questions = [question_of(address), ("SENTINEL", "MASTER", address.service)]
    for sentinel in sentinels_of(address):
        try:
            place, about = ask(sentinel, questions)
            if isinstance(place, hiredis.ReplyError):
                raise _refused(sentinel, str(place))
        except RedisError as error:
            problems.append(error)
            continue
        if place is None:
            problems.append(_unknown(sentinel, address.service))
            continue
        if not named:
            _last_answered[address.sentinels] = (sentinel.host, sentinel.port)
        named += 1
        yield Named(place_in(place), int(_fields(about).get("config-epoch", 0)))
    if not named:
        raise _nobody(address, problems)


def question_of(address: Address) -> tuple[str, ...]:
    """Return the command that asks a Sentinel for a service's primary; `place_in` reads the answer."""
    return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)


def place_in(answer: Sequence[bytes | str]) -> str:
    """Return the ``host:port`` of the primary that a Sentinel names."""
    host, port = (_text(word) for word in answer)
    return join(host, int(port))


def replicas(address: Address, ask: Ask) -> list[str]:
    """Return the places of a service's replicas, in order, that the first Sentinel to answer has not found down.

    A Sentinel learns only every ten seconds whether they are in sync with their primary: ask them.
    """
    problems: list[RedisError] = []
    for sentinel in sentinels_of(address):
        try:
            (found,) = ask(sentinel, [("SENTINEL", "REPLICAS", address.service)])
            if isinstance(found, hiredis.ReplyError):
                raise _refused(sentinel, str(found))
        except RedisError as error:
            problems.append(error)
            continue
        told = [_fields(fields) for fields in found]
        return sorted(join(about["ip"], int(about["port"])) for about in told if about.get("flags") == "slave")
    raise _nobody(address, problems)


def _nobody(address: Address, problems: Sequence[RedisError]) -> RedisError:
    told = f"no Sentinel knows {address.service!r}"
    return nobody_answers(told, problems, "are the Sentinels in redis.url right?")


def _refused(sentinel: Address, reply: str) -> RedisError:
    if "unknown command" in reply.lower():
        return RedisRefused(f"{sentinel} is not a Sentinel", hint="for the server itself, write redis:// in redis.url")
    return refusal(sentinel, "name the primary", reply)


def _unknown(sentinel: Address, service: str) -> RedisRefused:
    return RedisRefused(
        f"the Sentinel at {sentinel} knows no service {service!r}",
        hint="redis.url names it after the Sentinels, as their `sentinel monitor` does: …,HOST:PORT/SERVICE",
    )


def _fields(reply: object) -> dict[str, str]:
    """Return the fields that a Sentinel reports, a map in RESP3 and a flat list in RESP2."""
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return {_text(name): _text(value) for name, value in zip(reply[::2], reply[1::2], strict=False)}
    return {}


def _text(word: bytes | str) -> str:
    return word if isinstance(word, str) else word.decode("utf-8", "replace")


def at(address: Address, place: str) -> Address:
    """Return the address of a service's server at this place."""
    host, port = split(place)
    return replace(address, host=host, port=port, service="", sentinels=())
