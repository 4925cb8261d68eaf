"""Route tables that a simulation reloads: functions that change, routes renamed, cut, joined, removed, made again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.config import RouteSettings
from engine.routing.routes import RouteTable, wants

LETTERS = ("a*", "b*")
EVENTS = ("hset", "set")


@dataclass(frozen=True)
class Scope:
    """What a simulation may do besides what it always does."""

    reloads: bool = True
    gives_up: bool = True
    """Some routes give records up after some attempts, or at some age."""
    repeats: bool = False
    """Values come again and again, functions lose some, and routes may skip what they have accepted."""
    differs: bool = True
    """One route may be told of keys that are gone, and another one not."""


@dataclass
class Part:
    """One route: some keys of a table."""

    name: str
    keys: tuple[str, ...]


class Routing:
    """The newest routes; those of one table never share a key."""

    def __init__(self, rng: random.Random, scope: Scope) -> None:
        self._rng = rng
        self._scope = scope
        self._names = 0
        self.parts: dict[str, list[Part]] = {}
        self._options: dict[str, dict[str, object]] = {}
        self._versions: dict[str, int] = {}
        self.table_of_name: dict[str, str] = {}
        self.deletes: set[str] = set()
        """Tables whose functions are told of keys that are gone."""
        for table in ("alpha", "gamma")[: rng.choice([1, 2, 2])]:
            self._versions[table] = 1
            self.parts[table] = [Part(self._new_name(table), LETTERS)]
            if rng.random() < 0.5 if scope.differs or table == "alpha" else "alpha" in self.deletes:
                self.deletes.add(table)
            self._draw_options(table)
        self._originals = {"gamma"} if rng.random() < 0.4 else set()
        self.newest = RouteTable.build(self._settings())

    def _new_name(self, table: str) -> str:
        self._names += 1
        name = f"{table}-{self._names}"
        self.table_of_name[name] = table
        return name

    def _draw_options(self, table: str) -> None:
        rng, gives_up = self._rng, self._scope.gives_up
        self._options[table] = {
            "batch_size": rng.choice([1, 3, 8]),
            "parallelization_factor": rng.choice([1, 2, 3]),
            "maximum_batching_window_in_seconds": rng.choice([0.0, 0.0, 0.05]),
            "bisect_batch_on_function_error": rng.random() < 0.3,
            "function_response_types": ("ReportBatchItemFailures",) if rng.random() < 0.8 else (),
            "maximum_retry_attempts": rng.choice([-1, -1, 2]) if gives_up else -1,
            "maximum_record_age_in_seconds": rng.choice([-1, -1, 60]) if gives_up else -1,
        }
        if self._scope.repeats:
            self._options[table]["skip_unchanged"] = rng.random() < 0.8

    def _settings(self) -> list[RouteSettings]:
        return [
            RouteSettings(
                name=part.name,
                function=f"{table}:{self._versions[table]}",
                keys=part.keys,
                events=(*EVENTS, "del") if table in self.deletes else EVENTS,
                payload="original" if table in self._originals else "batch",
                **self._options[table],  # type: ignore[arg-type]
            )
            for table, parts in self.parts.items()
            for part in parts
        ]

    def reload(self) -> str:
        """Change one thing; return what."""
        rng = self._rng
        table = rng.choice(list(self.parts))
        parts = self.parts[table]
        kind = rng.choice(["function", "options", "rename", "rename", "split", "join", "remove"])
        if not parts:
            kind = "again"
            name = rng.choice([name for name, of in self.table_of_name.items() if of == table])
            self.parts[table] = [Part(rng.choice([name, self._new_name(table)]), LETTERS)]
        elif kind == "function":
            self._versions[table] += 1
        elif kind == "options":
            self._draw_options(table)
        elif kind == "rename":
            rng.choice(parts).name = self._new_name(table)
        elif kind == "split" and len(parts) == 1:
            one = rng.choice([parts[0].name, self._new_name(table)])
            self.parts[table] = [Part(one, LETTERS[:1]), Part(self._new_name(table), LETTERS[1:])]
        elif kind == "join" and len(parts) == 2:
            name = rng.choice([parts[0].name, parts[1].name, self._new_name(table)])
            self.parts[table] = [Part(name, LETTERS)]
        else:
            self.parts[table] = []
            kind = "remove"
        self.newest = RouteTable.build(self._settings(), self.newest)
        return f"{kind} {table}: {[(route.name, route.function, route.keys) for route in self.newest.routes.values()]}"

    def tables(self, key: bytes, event: str, table: RouteTable) -> set[str]:
        """Return whose functions this event of a key is for."""
        return {route.function.partition(":")[0] for route in table.routes.values() if wants(route)(key, event)}
