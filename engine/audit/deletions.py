"""Which of the keys that it found gone a comparison may delete, and which it must hold until somebody decides.  (pure)

A key that an event says is deleted is deleted. One that is only *found* missing may be missing because the cache came
back empty, and the store is meant to outlive that. So deletions that are only found have a limit, and past it nothing
is deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import msgspec

FOUND_KEYS_FREE = 100
"""This many keys of a route may be found gone without asking, whatever share of the route they are."""

Choice = Literal["", "accept", "refuse"]

_FACTS = re.compile(
    rb"^(run_id|role|master_replid|master_replid2|rdb_last_load_keys_loaded|aof_enabled):([\w-]+)", re.MULTILINE
)
_NO_HISTORY = re.compile(r"0*")


class Why(StrEnum):
    """Why deletions are held."""

    SHARE = "more keys were found gone than deletions_found_share_max allows"
    ANEW = "the server, or one of its nodes, began anew, with nothing loaded"


FORMAT = 1
"""Of the file that keeps this."""


class Dataset(msgspec.Struct, frozen=True):
    """Which dataset a server holds: its process, and the history of replication that it belongs to."""

    run_id: str
    history: str = ""


class ServerFacts(msgspec.Struct, frozen=True):
    """What a server reports about its dataset.

    ``loaded_keys`` is how many it began with, or was sent by its primary; -1 if it does not say.
    """

    run_id: str = ""
    histories: tuple[str, ...] = ()
    loaded_keys: int = -1
    is_replica: bool = False

    @property
    def dataset(self) -> Dataset:
        """Return what identifies it later."""
        return Dataset(self.run_id, self.histories[0] if self.histories else "")


class HeldRoute(msgspec.Struct, frozen=True):
    """What is undecided, and what was decided, for one route.

    ``gone`` keys of the ``of`` that its destination holds were found gone, and are held since ``since_ms`` (Unix time).
    ``choice`` is what somebody decided and no comparison has carried out yet. ``kept`` keys were refused: they stay.
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
    """All that is held, by route, and the datasets that were compared last, by the ids of their nodes.

    ``dataset`` is the one of a server without cluster mode, whose id is "".
    """

    format: int = FORMAT
    dataset: Dataset | None = None
    routes: dict[str, HeldRoute] = {}
    nodes: dict[str, Dataset] = {}

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Return the datasets of all nodes."""
        return self.nodes if self.dataset is None else {"": self.dataset, **self.nodes}

    def knowing(self, datasets: Mapping[str, Dataset]) -> Held:
        """Return the same with these datasets."""
        nodes = dict(datasets)
        return msgspec.structs.replace(self, dataset=nodes.pop("", None), nodes=nodes)

    @property
    def undecided_keys(self) -> int:
        """Return how many deletions wait for a choice."""
        return sum(route.gone for route in self.routes.values() if route.is_undecided)

    @property
    def has_choice(self) -> bool:
        """Tell whether somebody decided something that no comparison has carried out yet."""
        return any(route.choice for route in self.routes.values())


class Judgement(StrEnum):
    """What becomes of the keys of a route that were found gone."""

    DELETE = "delete"
    HOLD = "hold"
    KEEP = "keep"


def facts_of(info: bytes) -> ServerFacts:
    """Return what ``INFO`` (server, persistence and replication) says about the dataset."""
    facts = {name.decode(): value.decode() for name, value in _FACTS.findall(info)}
    histories = tuple(
        history
        for name in ("master_replid", "master_replid2")
        if (history := facts.get(name, "")) and not _NO_HISTORY.fullmatch(history)
    )
    # Keys loaded from an append-only file are not in the count.
    is_told = facts.get("aof_enabled") == "0"
    loaded = facts.get("rdb_last_load_keys_loaded", "") if is_told else ""
    loaded_keys = int(loaded) if loaded.isdigit() else -1
    return ServerFacts(facts.get("run_id", ""), histories, loaded_keys, facts.get("role") == "slave")


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node's dataset allows: nothing if it ``is_anew``, else ``free`` keys that are gone without asking."""

    is_anew: bool = False
    free: int = FOUND_KEYS_FREE


def trust_of(known: Mapping[str, Dataset], now: Mapping[str, ServerFacts]) -> dict[str, Trust]:
    """Return, for each node, what its dataset allows to be deleted, by which datasets were known before.

    A node that took another's place continues that one's history. A node that was unknown, and continues no known
    history, may have been given its keys by others, or replace one that was lost: a share of its keys may be gone,
    without an allowance of a number of keys.
    """
    histories = {dataset.history for dataset in known.values() if dataset.history}
    trusts = {}
    for node, facts in now.items():
        before = known.get(node)
        if before is None and known and not histories.intersection(facts.histories) and len(facts.histories) < 2:
            trusts[node] = Trust(free=0)
        else:
            trusts[node] = Trust(began_anew(before, facts), free_keys(before, facts))
    return trusts


def began_anew(known: Dataset | None, now: ServerFacts) -> bool:
    """Tell whether the server holds another dataset than the known one, and began with none."""
    return now.loaded_keys == 0 and _is_another(known, now)


def free_keys(known: Dataset | None, now: ServerFacts) -> int:
    """Return how many keys of a route may be found gone without asking.

    None if the server holds another dataset and does not say what it began with: it may have been nothing.
    """
    return 0 if now.loaded_keys < 0 and _is_another(known, now) else FOUND_KEYS_FREE


def _is_another(known: Dataset | None, now: ServerFacts) -> bool:
    """Tell whether the server holds another dataset than the known one.

    A replica that was promoted continues the history of its primary: it has two. A primary takes a new history with
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


@dataclass(frozen=True, slots=True)
class Part:
    """What was found on one node: ``gone`` keys, out of the ``of`` keys of this node that the destination holds."""

    gone: int
    of: int
    trust: Trust = Trust()


def judge(before: HeldRoute, parts: Sequence[Part], share_max: float) -> Judgement:
    """Return what to do with the keys of a route that are gone; ``before`` is what was held and decided.

    Each node may come back empty by itself: none may have more than the share of its own keys gone. An acceptance
    covers as many as were held when it was given; the limit applies again to any more.
    """
    if before.choice == "refuse":
        return Judgement.KEEP
    gone = sum(part.gone for part in parts)
    new = gone - (before.gone if before.choice == "accept" else 0)
    is_past = any(is_past_limit(min(part.gone, new), part.of, share_max, part.trust.free) for part in parts)
    if gone and (is_anew(parts) or before.is_undecided or is_past):
        return Judgement.HOLD
    return Judgement.DELETE


def is_anew(parts: Iterable[Part]) -> bool:
    """Tell whether any node began anew, with nothing loaded."""
    return any(part.trust.is_anew for part in parts)


def held_after(before: HeldRoute, judgement: Judgement, parts: Sequence[Part], kept: int, now_ms: int) -> HeldRoute:
    """Return what is held for a route after a comparison; ``kept`` keys were refused, now or before."""
    of = sum(part.of for part in parts)
    if judgement is not Judgement.HOLD:
        return HeldRoute(kept=kept, of=of) if kept else NOTHING_HELD
    why = Why.ANEW if is_anew(parts) else (before.why if before.is_undecided else Why.SHARE)
    since_ms = before.since_ms if before.is_undecided else now_ms
    return HeldRoute(sum(part.gone for part in parts), of, str(why), since_ms, "", kept)


def decided(route: HeldRoute, choice: Choice) -> HeldRoute | None:
    """Return the route with this choice; None if there is nothing to choose.

    What was refused may still be accepted.
    """
    if choice == "accept":
        gone = route.gone + route.kept
        return msgspec.structs.replace(route, gone=gone, kept=0, choice=choice) if gone else None
    return msgspec.structs.replace(route, choice=choice) if route.gone else None
