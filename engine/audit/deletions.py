"""What a comparison may delete of what it found gone, and what it must hold until somebody decides.  (pure)

A key that an event says is deleted is deleted. One that is only *found* missing may be missing because the cache came
back empty, and the store is meant to outlive that. So what is found has a limit, and past it nothing is deleted.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

import msgspec

FOUND_KEYS_FREE = 100
"""So many keys of a route may be found gone without a question, whatever share of the route they are."""

Choice = Literal["", "accept", "refuse"]

_FACTS = re.compile(
    rb"^(run_id|role|master_replid|master_replid2|rdb_last_load_keys_loaded|aof_enabled):([\w-]+)", re.MULTILINE
)
_NO_HISTORY = re.compile(r"0*")


class Why(StrEnum):
    """Why deletions are held."""

    SHARE = "more keys were found gone than deletions_found_share_max allows"
    ANEW = "the server began anew, with nothing loaded"


class Dataset(msgspec.Struct, frozen=True):
    """Which dataset a server holds: its process, and the history of replication that it belongs to."""

    run_id: str
    history: str = ""


class ServerFacts(msgspec.Struct, frozen=True):
    """What a server says of its dataset.

    ``loaded_keys`` is how many it began with, or was sent by its primary; -1 where it does not tell.
    """

    run_id: str = ""
    histories: tuple[str, ...] = ()
    loaded_keys: int = -1
    is_replica: bool = False

    @property
    def dataset(self) -> Dataset:
        """Return what to know it by later."""
        return Dataset(self.run_id, self.histories[0] if self.histories else "")


class HeldRoute(msgspec.Struct, frozen=True):
    """What is undecided, and what was decided, of one route.

    ``gone`` keys of the ``of`` that its destination holds were found gone, and are held since ``since_ms`` (Unix time).
    ``choice`` is what somebody decided and no comparison has done yet. ``kept`` keys were refused: they stay.
    """

    gone: int = 0
    of: int = 0
    why: str = ""
    since_ms: int = 0
    choice: Choice = ""
    kept: int = 0

    @property
    def is_undecided(self) -> bool:
        """Tell whether deletions wait for a choice."""
        return self.gone > 0 and not self.choice


NOTHING_HELD = HeldRoute()


class Held(msgspec.Struct, frozen=True):
    """All that is held, by route, and the dataset that was compared last."""

    format: int = 1
    dataset: Dataset | None = None
    routes: dict[str, HeldRoute] = {}

    @property
    def undecided_keys(self) -> int:
        """Return how many deletions wait for a choice."""
        return sum(route.gone for route in self.routes.values() if route.is_undecided)

    @property
    def has_choice(self) -> bool:
        """Tell whether somebody decided something that no comparison has done yet."""
        return any(route.choice for route in self.routes.values())


class Judgement(StrEnum):
    """What becomes of the keys of a route that were found gone."""

    DELETE = "delete"
    HOLD = "hold"
    KEEP = "keep"


def facts_of(info: bytes) -> ServerFacts:
    """Return what ``INFO`` (server, persistence and replication) tells of the dataset."""
    facts = {name.decode(): value.decode() for name, value in _FACTS.findall(info)}
    histories = tuple(
        history
        for name in ("master_replid", "master_replid2")
        if (history := facts.get(name, "")) and not _NO_HISTORY.fullmatch(history)
    )
    # Keys that an append-only file brought are not in the count.
    is_told = facts.get("aof_enabled") == "0"
    loaded = facts.get("rdb_last_load_keys_loaded", "") if is_told else ""
    loaded_keys = int(loaded) if loaded.isdigit() else -1
    return ServerFacts(facts.get("run_id", ""), histories, loaded_keys, facts.get("role") == "slave")


def began_anew(known: Dataset | None, now: ServerFacts) -> bool:
    """Tell whether the server holds another dataset than the known one, and began with none."""
    return now.loaded_keys == 0 and _is_another(known, now)


def free_keys(known: Dataset | None, now: ServerFacts) -> int:
    """Return how many keys of a route may be found gone without a question.

    None, where the server holds another dataset and does not tell what it began with: it may have been nothing.
    """
    return 0 if now.loaded_keys < 0 and _is_another(known, now) else FOUND_KEYS_FREE


def _is_another(known: Dataset | None, now: ServerFacts) -> bool:
    """Tell whether the server holds another dataset than the known one.

    A replica that was promoted goes on with the history of its primary: it has two. A primary takes a new history with
    its first replica; a replica that has another one follows another dataset.
    """
    if known is None or not known.run_id or not now.run_id or len(now.histories) > 1:
        return False
    if now.run_id == known.run_id and not (now.is_replica and known.history):
        return False
    return known.history not in now.histories


def is_past_limit(gone: int, of: int, share_max: float, free: int = FOUND_KEYS_FREE) -> bool:
    """Tell whether so many keys found gone, of those that the destination holds, need somebody's consent."""
    return gone > free and gone > share_max * of


def judge(
    before: HeldRoute, gone: int, of: int, share_max: float, *, is_anew: bool, free: int = FOUND_KEYS_FREE
) -> Judgement:
    """Return what to do with the ``gone`` keys; ``before`` is what was held and decided.

    An acceptance covers what was held when it was given: what is gone on top of it has the limit again.
    """
    if before.choice == "refuse":
        return Judgement.KEEP
    accepted = before.gone if before.choice == "accept" else 0
    if gone and (is_anew or before.is_undecided or is_past_limit(gone - accepted, of, share_max, free)):
        return Judgement.HOLD
    return Judgement.DELETE


def held_after(
    before: HeldRoute, judgement: Judgement, gone: int, of: int, kept: int, now_ms: int, *, is_anew: bool
) -> HeldRoute:
    """Return what is held of a route after a comparison; ``kept`` keys were refused, now or before."""
    if judgement is not Judgement.HOLD:
        return HeldRoute(kept=kept, of=of) if kept else NOTHING_HELD
    why = Why.ANEW if is_anew else (before.why if before.is_undecided else Why.SHARE)
    since_ms = before.since_ms if before.is_undecided else now_ms
    return HeldRoute(gone, of, str(why), since_ms, "", kept)


def decided(route: HeldRoute, choice: Choice) -> HeldRoute | None:
    """Return the route with this choice; None where there is nothing to choose.

    What was refused may still be accepted.
    """
    if choice == "accept":
        gone = route.gone + route.kept
        return msgspec.structs.replace(route, gone=gone, kept=0, choice=choice) if gone else None
    return msgspec.structs.replace(route, choice=choice) if route.gone else None
