"""What was sent, and what arrived, put together: every change's lag at every stage."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.drive.commands import PREFIX, key_number
from benchmarks.drive.driver import Sent
from benchmarks.drive.plan import Plan
from benchmarks.lag.function import COLUMNS, SUFFIX, number_and_due
from benchmarks.lag.histogram import Percentiles, percentiles_of

Times = npt.NDArray[np.int64]
NEVER = np.iinfo(np.int64).max
SETS, DELETES = 1, 2
"""The kinds up to the first set a value; the second is a DEL (`benchmarks.drive.commands.weights`)."""
_NUMBERS = 1 << 32


@dataclass(frozen=True)
class Clocks:
    """What to add to a Unix time for the monotonic clock, in ns."""

    monotonic_minus_unix_ns: int

    @classmethod
    def now(cls) -> Clocks:
        """Return the difference at this moment."""
        return cls(time.monotonic_ns() - time.time_ns())


@dataclass(frozen=True)
class Received:
    """All arrivals of a run, a column each (`benchmarks.lag.function.COLUMNS`)."""

    rows: npt.NDArray[np.int64]

    def column(self, name: str) -> Times:
        """Return one column."""
        return self.rows[:, COLUMNS.index(name)]


class _Record(msgspec.Struct):
    id: str
    body: str | None
    version: int = 0
    captured_at_ms: int = 0


class _Event(msgspec.Struct):
    records: list[_Record] = []


class _Line(msgspec.Struct):
    started_ns: int
    ended_ns: int
    event: _Event


def read_journal(path: Path, clocks: Clocks) -> Received:
    """Return what reached a function stand-in, by the sandbox's journal; keys that are not ours are left out."""
    decode, rows = msgspec.json.Decoder(_Line).decode, []
    with path.open("rb") as file:
        for text in file:
            line = decode(text)
            began, ended = (moment + clocks.monotonic_minus_unix_ns for moment in (line.started_ns, line.ended_ns))
            for one in line.event.records:
                if one.id.startswith(PREFIX):
                    number, due_ns = number_and_due(one.body)
                    rows.append((key_number(one.id), number, due_ns, one.captured_at_ms, one.version, began, ended))
    return Received(np.array(rows, np.int64).reshape(-1, len(COLUMNS)))


def read_notes(folder: Path) -> Received:
    """Return what `benchmarks.lag.function` noted; a row that a killed worker left torn is left out."""
    width = 8 * len(COLUMNS)
    parts = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        data = path.read_bytes()
        parts.append(np.frombuffer(data[: len(data) // width * width], np.int64).reshape(-1, len(COLUMNS)))
    return Received(np.concatenate(parts) if parts else np.empty((0, len(COLUMNS)), np.int64))


class StageLag(msgspec.Struct, frozen=True):
    """From when changes were due to one stage."""

    stage: str
    lag: Percentiles


def leaves_value(plan: Plan) -> npt.NDArray[np.bool_]:
    """Tell of each change whether it leaves a value that can be seen to arrive.

    HSET and SET do, but for those whose key is deleted next: the value may be gone before anybody reads it.
    """
    sets = plan.kinds <= SETS
    places = np.flatnonzero(plan.kinds <= DELETES)
    order = places[np.argsort(plan.key_numbers[places], kind="stable")]
    keys, kinds = plan.key_numbers[order], plan.kinds[order]
    is_deleted_next = np.zeros(len(plan), np.bool_)
    is_deleted_next[order[:-1]] = (keys[1:] == keys[:-1]) & (kinds[1:] == DELETES)
    found: npt.NDArray[np.bool_] = sets & ~is_deleted_next
    return found


def lags_of(sent: Sent, received: Received, clocks: Clocks) -> dict[str, Times]:
    """Return the lag at each stage (ns) of each change that leaves a value.

    It is that of the first arrival of the change, or of a newer value of its key; `NEVER` where there was none.
    ``captured`` is exact to 1 ms, as the engine tells it.
    """
    plan = sent.plan
    counted = leaves_value(plan)
    due = (plan.offsets + sent.started_ns)[counted]
    wanted = plan.key_numbers.astype(np.int64)[counted] * _NUMBERS + np.flatnonzero(counted) + 1
    codes = received.column("key") * _NUMBERS + received.column("number")
    order = np.argsort(codes, kind="stable")
    places = np.searchsorted(codes[order], wanted)
    moments = {
        "captured": received.column("captured_ms") * 1_000_000 + clocks.monotonic_minus_unix_ns,
        "fetched": received.column("fetched_us") * 1_000 + clocks.monotonic_minus_unix_ns,
        "invoked": received.column("invoked_ns"),
        "committed": received.column("done_ns"),
    }
    found = {"acknowledged": sent.answered_ns[counted]}
    for stage, times in moments.items():
        found[stage] = _first(times[order], codes[order], places, wanted) - due
    missing = found["invoked"] > NEVER // 2
    return {stage: np.where(missing, NEVER, lag) if stage in moments else lag for stage, lag in found.items()}


def _first(times: Times, codes: Times, places: Times, wanted: Times) -> Times:
    """Return the earliest time among arrivals of the wanted change's key that have its number or a newer one."""
    if not len(times):
        return np.full(len(wanted), NEVER)
    keys = codes // _NUMBERS
    # A newer value may come by another invocation that ends sooner: the least of all from here to the end of the key.
    least = times.copy()
    for at in range(len(times) - 2, -1, -1) if _is_disordered(times, keys) else ():
        if keys[at] == keys[at + 1] and least[at + 1] < least[at]:
            least[at] = least[at + 1]
    inside = np.minimum(places, len(times) - 1)
    is_there = (places < len(times)) & (keys[inside] == wanted // _NUMBERS)
    return np.where(is_there, least[inside], NEVER)


def _is_disordered(times: Times, keys: Times) -> bool:
    return bool(np.any((np.diff(times) < 0) & (np.diff(keys) == 0)))


def told(lags: dict[str, Times]) -> list[StageLag]:
    """Return what is told of each stage, of the changes that arrived."""
    arrived = lags["invoked"] != NEVER
    return [StageLag(stage, percentiles_of(lag[arrived])) for stage, lag in lags.items()]
