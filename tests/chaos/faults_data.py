"""Changes of every kind, and values that can't be delivered."""

from __future__ import annotations

import json
from typing import Any

from engine.sandbox.functions.runtime import FunctionSpec
from tests.chaos.handlers import POISON
from tests.chaos.ledger import Command
from tests.chaos.registry import fault
from tests.chaos.rig import Run

NEIGHBOURS = 499
LARGE_CHARS = 300_000
TOO_LARGE_CHARS = 450_000
SCRIPT = """
for number, key in ipairs(KEYS) do
  redis.call('HSET', key, 'n', ARGV[1] .. '-' .. number, 'script', redis.sha1hex(key .. ARGV[1]))
end
return #KEYS
"""


def done(replies: list[Any]) -> int:
    """Return how many commands the server carried out."""
    return sum(not isinstance(reply, Exception) and reply not in (0, None) for reply in replies)


def two_keys(run: Run) -> tuple[bytes, bytes]:
    """Return two of the writer's keys."""
    first, second = run.rng.sample(run.writer.keys, 2)
    return first, second


@fault("data: RENAME")
def rename(run: Run) -> str:
    """To new names and over other keys, and back."""
    replies: list[Any] = []
    for number in range(60):
        source, target = two_keys(run)
        replies += run.writer.write_now([("RENAME", source, target)])
        if number % 3 == 0:
            other = f"renamed:{number}"
            replies += run.writer.write_now([("RENAME", target, other)])
            if number % 6 == 0:
                replies += run.writer.write_now([("RENAME", other, target)])
        run.sleep(0.02)
    return f"{done(replies)} keys renamed" if done(replies) > 30 else ""


@fault("data: COPY")
def copy(run: Run) -> str:
    replies: list[Any] = []
    for number in range(60):
        source, target = two_keys(run)
        replies += run.writer.write_now([("COPY", source, f"copy:{number % 20}", "REPLACE")])
        replies += run.writer.write_now([("COPY", source, target, "REPLACE")])
        run.sleep(0.02)
    return f"{done(replies)} keys copied" if done(replies) > 60 else ""


@fault("data: RESTORE")
def restore(run: Run) -> str:
    """Over a newer value of the same key, and to another name; some with an idle time, as a migration does it."""
    restored = 0
    for number in range(50):
        key = run.writer.pick()
        dump = run.client().dump(key)
        if dump is None:
            continue
        target = f"restored:{number % 20}".encode()
        run.writer.ledger.computed(key, target)
        idle = ("IDLETIME", 3_600) if number % 2 else ()
        commands: list[Command] = [
            run.writer.change(key),
            ("RESTORE", key, 0, dump, "REPLACE", *idle),
            ("RESTORE", target, 0, dump, "REPLACE", *idle),
        ]
        restored += done(run.writer.write_now(commands)[1:])
        run.sleep(0.02)
    return f"{restored} keys restored" if restored > 40 else ""


@fault("data: SET over hashes, and other types")
def types(run: Run) -> str:
    """Every type takes the place of another under the same name; all that holds for hashes holds for them."""
    replies: list[Any] = []
    for number in range(80):
        key, text = run.writer.pick(), f"text-{number}"
        other = f"typed:{number % 10}"
        run.writer.ledger.computed(key)
        replies += run.writer.write_now([("SET", key, text), ("DEL", other), *new_value(other, number)])
        run.sleep(0.01)
    kinds = sorted({run.client().type(f"typed:{number}").decode() for number in range(10)} - {"none"})
    return f"{done(replies)} commands; types at the end: {', '.join(kinds)}" if len(kinds) > 2 else ""


def new_value(key: str, number: int) -> list[Command]:
    """Return commands that make a value of another type each time."""
    values: list[list[Command]] = [
        [("RPUSH", key, f"a{number}", f"b{number}", f"a{number}")],
        [("SADD", key, f"b{number}", f"a{number}")],
        [("ZADD", key, number + 0.5, f"a{number}", -number, f"b{number}")],
        [("XADD", key, f"{number + 1}-1", "field", f"x{number}")],
        [("SET", key, f"s{number}"), ("SET", key, f"t{number}")],
        [("HSET", key, "ключ", f"значение {number}"), ("HSET", key, b"\xff\x00", b"\xfe%d" % number)],
        [("RPUSH", key, f"c{number}"), ("LPOP", key)],
    ]
    return values[number % len(values)]


@fault("data: keys and values that are not text")
def binary(run: Run) -> str:
    keys = [bytes([0xC3, 0x28, number]) + bytes(range(256)) for number in range(20)]
    keys += [f"base64:{number}".encode() for number in range(5)] + [f"utf8:{number}".encode() for number in range(5)]
    replies: list[Any] = []
    for turn in range(10):
        for key in run.rng.sample(keys, 15):
            value = bytes(run.rng.randrange(256) for _ in range(20))
            replies += run.writer.write_now([("HSET", key, b"\x80%d" % turn, value)])
        run.sleep(0.05)
    return f"{done(replies)} fields set"


@fault("data: MULTI/EXEC")
def transactions(run: Run) -> str:
    executed = 0
    for _ in range(40):
        keys = run.rng.sample(run.writer.keys, 5)
        changes = [run.writer.change(key) for key in keys]
        replies = run.writer.write_now([("MULTI",), *changes, ("DEL", keys[0]), changes[0], ("EXEC",)])
        executed += isinstance(replies[-1], list)
        run.sleep(0.03)
    return f"{executed} transactions" if executed else ""


@fault("data: scripts")
def scripts(run: Run) -> str:
    """Scripts that write several keys at once; one of them fails half-way, and what it wrote stays."""
    ran = failed = 0
    for number in range(40):
        keys = run.rng.sample(run.writer.keys, 5)
        run.writer.ledger.computed(*keys)
        script = SCRIPT if number % 4 else SCRIPT.replace("return #KEYS", "return redis.call('GET', KEYS[1])")
        (reply,) = run.writer.write_now([("EVAL", script, len(keys), *keys, f"script-{number}")])
        ran += reply == len(keys)
        failed += isinstance(reply, Exception)
        run.sleep(0.03)
    return f"{ran} scripts ran, {failed} failed half-way" if ran and failed else ""


@fault("data: expiry between event and read")
def expiry(run: Run) -> str:
    """The event says that the key was changed; when it is read, it is gone. Some live a little longer."""
    before = expired(run)
    for number in range(60):
        key = run.rng.choice(run.writer.keys)
        ttl_ms = 1 if number % 2 else run.rng.randint(2, 300)
        run.writer.write_now([("MULTI",), run.writer.change(key), ("PEXPIRE", key, ttl_ms), ("EXEC",)])
        run.sleep(0.02)
    # Without an access, the server finds an expired key when it comes by.
    run.wait(lambda: expired(run) - before > 30, "keys expire")
    return f"{expired(run) - before} keys expired"


def expired(run: Run) -> int:
    """Return how many keys the server has let expire."""
    return int(run.client().info("stats")["expired_keys"])


@fault("data: another type by the time of the read")
def retyped(run: Run) -> str:
    """The event says hash, and the value is a list, or a string, by the time it is read."""
    before = run.engine.totals()["keys_retyped"]
    turns = 0

    def is_retyped() -> int:
        nonlocal turns
        turns += 1
        keys = run.rng.sample(run.writer.keys, 20)
        run.writer.ledger.computed(*keys)
        other = ("RPUSH", "SET")[turns % 2]
        for kind, value in (("HSET", ("n", "0")), (other, (f"r{turns}",))):
            run.writer.write_now([command for key in keys for command in (("DEL", key), (kind, key, *value))])
            # About as long as the engine takes from an event to the read.
            run.sleep(run.rng.uniform(0.0, 0.004))
        return run.engine.totals()["keys_retyped"] - before

    retyped = run.wait(is_retyped, "a key has another type than was said")
    return f"{retyped} of {turns * 20} keys had another type than their event said"


@fault("data: an item over 400 KB, made small again")
def too_large(run: Run) -> str:
    """It fails alone, for as long as it is too large."""
    keys = [f"large:{number}" for number in range(3)]
    before = run.engine.totals()["records_retried"]
    for key in keys:
        run.writer.execute("HSET", key, "text", "x" * TOO_LARGE_CHARS)
    run.wait(lambda: run.engine.totals()["records_retried"] > before, "the function gives the records back")
    run.sleep(1.0)
    retried = run.engine.totals()["records_retried"] - before
    stored = run.items().keys() & {key.encode() for key in keys}
    run.writer.execute("HSET", keys[0], "text", "small again")
    run.writer.execute("DEL", keys[1])
    run.writer.execute("SET", keys[2], "a string now")
    return f"{retried} records given back, none stored" if not stored else ""


@fault("data: more than one payload holds")
def more_than_a_payload(run: Run) -> str:
    """Forty values of 300 KB at once are twelve megabytes, and an invocation takes six."""
    before = run.engine.totals()["payload_bytes"]
    keys = [f"big:{number}" for number in range(40)]
    run.writer.write_now([("HSET", key, "text", key + "x" * LARGE_CHARS) for key in keys])
    wanted = len(keys) * LARGE_CHARS

    def carried() -> int:
        return run.engine.totals()["payload_bytes"] - before

    run.wait(lambda: carried() > wanted, "the payloads carry all of them")
    sizes = [sum(record["id"].startswith("big:") for record in records_of(one)) for one in run.invocations()]
    most = max(sizes)
    return f"{carried() >> 20} MB in payloads, at most {most} of the large values in one" if most < len(keys) else ""


def records_of(invocation: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the records of a line of the journal."""
    records: list[dict[str, Any]] = (invocation.get("event") or {}).get("records", [])
    return records


@fault(
    "data: a poisoned record in a batch of 500",
    functions=(FunctionSpec("dynamodb", "tests.chaos.handlers:poisoned", timeout_s=3.5),),
    settings={"capture": {"shards": 1}, "delivery": {"invokers": 1}},
    route={
        "bisect_batch_on_function_error": True,
        "maximum_retry_attempts": 2,
        "maximum_batching_window_in_seconds": 0.3,
        "batch_size": 500,
    },
    exempt=lambda key: key.startswith(POISON.encode()),
)
def poison(run: Run) -> str:
    """Cutting the batch in halves finds it: it alone is given up on, and kept; its neighbours are delivered."""
    run.writer.pause()
    run.sleep(1.5)
    place = run.rng.randrange(NEIGHBOURS)
    keys = [f"neighbour:{number:03d}" for number in range(NEIGHBOURS)]
    commands: list[Command] = [run.writer.change(key.encode()) for key in keys]
    commands.insert(place, ("HSET", f"{POISON}:{place}", "n", "0"))
    run.writer.write_now(commands)
    file = run.engine.folder / "dead_letters.jsonl"
    run.wait(lambda: file.exists() and file.stat().st_size, "the poisoned record is given up on", 40.0)
    run.writer.start()
    largest = max(
        len(records) for records in map(records_of, run.invocations()) if any(is_poison(one) for one in records)
    )
    run.sleep(1.0)
    kept = {json.loads(line)["id"] for line in file.read_text().splitlines()}
    said = f"given up on: {sorted(kept)[:5]}; the largest batch with it had {largest} records"
    return said if largest > NEIGHBOURS * 0.9 else ""


def is_poison(record: dict[str, Any]) -> bool:
    """Tell whether this is the poisoned record."""
    return str(record["id"]).startswith(POISON)
