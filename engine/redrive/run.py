"""One redrive: which places there are, and each of their letters published and then removed."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Protocol

import msgspec

from engine.aws.failure_arns import check_on_failure, parse_failure_arn
from engine.config import RouteSettings, Settings
from engine.errors import ConfigError, Problem
from engine.redis.address import parse_url
from engine.redis.databases import known_inside
from engine.redrive.file_source import FileSource
from engine.redrive.letters import Letter, is_known, read_letter
from engine.redrive.publish import Publisher
from engine.redrive.source import Item, Source, SourceError
from engine.routing.databases import databases_of

_UNKNOWN_NAMED_MAX = 5


class Tally(msgspec.Struct):
    """What became of the letters of one source.

    ``read`` were to be sent; ``sent`` can no longer be lost by the engine, and are removed; ``kept`` are the others,
    among them ``malformed`` lines that are not letters, letters of routes that are ``unknown``, and ``orphaned`` ones,
    whose keys the server may have lost with their values, and letters of databases ``elsewhere``, which are not
    captured. What was skipped (other routes than the requested one, or beyond the requested maximum) is not counted.
    """

    source: str
    read: int = 0
    sent: int = 0
    kept: int = 0
    malformed: int = 0
    unknown: int = 0
    orphaned: int = 0
    elsewhere: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


class Summary(msgspec.Struct):
    """A whole redrive."""

    read: int
    sent: int
    kept: int
    problems: list[str]
    sources: list[Tally]

    @property
    def exit_code(self) -> int:
        """Return 0 if everything was sent, or there was nothing."""
        return int(bool(self.kept or self.problems or any(tally.problems for tally in self.sources)))


class Observer(Protocol):
    """Observes the progress of a redrive."""

    def begins(self, source: str, total: int | None) -> None:
        """Take a source's name and the weight of its items."""
        ...

    def advances(self, weight: int, sent: int) -> None:
        """Take what a chunk weighed, and how many letters of the source were sent so far."""
        ...


class Nobody:
    """An observer that ignores everything."""

    def begins(self, source: str, total: int | None) -> None:
        """Do nothing."""

    def advances(self, weight: int, sent: int) -> None:
        """Do nothing."""


def redrive(
    settings: Settings,
    *,
    route: str | None = None,
    source: str | None = None,
    count_max: int | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Send the dead letters of these settings' routes again; every failure is in the result.

    ``route`` limits it to the letters of one route, ``source`` to one place (a file, or an ARN), ``count_max`` to that
    many letters. Raises `ConfigError` if ``source`` is an ARN that cannot hold any.
    """
    settings = known_inside(settings)
    sources = [_named_source(settings, source, route)] if source is not None else default_sources(settings, route)
    publisher = Publisher(settings)
    captured = {None, *databases_of(settings.redis, parse_url(settings.redis.url).database).numbers}
    drive = _Drive(publisher, _wanted(settings, route), count_max, observer or Nobody(), captured)
    try:
        for one in sources:
            if not drive.is_over():
                drive.take(one)
    finally:
        publisher.close()
    problems = [] if publisher.problem is None else [str(publisher.problem)]
    tallies = drive.tallies
    read, sent, kept = (sum(getattr(tally, name) for tally in tallies) for name in ("read", "sent", "kept"))
    return Summary(read, sent, kept, problems, tallies)


def default_sources(settings: Settings, route: str | None) -> list[Source]:
    """Return where the letters of the configured routes are; the file is always one of them.

    What no queue can hold goes to the file too, and letters of routes that are no longer configured may be there.
    """
    routes = [one for one in settings.routes if route in {None, one.name}] or list(settings.routes)
    places: dict[str, list[RouteSettings]] = {}
    for one in routes:
        if one.on_failure:
            places.setdefault(one.on_failure, []).append(one)
    sources: list[Source] = [FileSource(settings.delivery.dead_letter_file)]
    for arn, users in places.items():
        names = [route] if route is not None else [user.name for user in users]
        sources.append(_source_at(settings, arn, names))
    return sources


def _named_source(settings: Settings, source: str, route: str | None) -> Source:
    if not source.startswith("arn:"):
        return FileSource(source, is_named=True)
    if finding := check_on_failure(source):
        raise ConfigError([Problem("--from", *finding)])
    return _source_at(settings, source, None if route is None else [route])


def _source_at(settings: Settings, arn: str, routes: Iterable[str] | None) -> Source:
    place = parse_failure_arn(arn)
    assert place is not None, "settings are checked before"
    if place.service == "sqs":
        from engine.redrive.sqs_source import SqsSource

        return SqsSource(place, settings.aws, settings.delivery)
    from engine.redrive.s3_source import S3Source

    return S3Source(place, settings.aws, settings.delivery, routes)


def _wanted(settings: Settings, route: str | None) -> Callable[[str], bool | None]:
    """Return what says, by a route's name, whether its letters are sent (True), kept (False) or skipped (None)."""
    if route is not None:
        return lambda name: True if name == route else None
    names = frozenset(one.name for one in settings.routes)
    prefix = settings.original.mapping_prefix
    return lambda name: is_known(name, names, prefix)


class _Drive:
    """Takes one source after the other, until nothing more may be sent."""

    def __init__(
        self,
        publisher: Publisher,
        wanted: Callable[[str], bool | None],
        count_max: int | None,
        observer: Observer,
        captured: Container[int | None],
    ) -> None:
        """``captured`` are the databases of the engine, and None for a letter that does not name its own."""
        self.tallies: list[Tally] = []
        self._publisher = publisher
        self._wanted = wanted
        self._left = count_max
        self._captured = captured
        self._observer = observer
        self._unknown: dict[str, None] = {}

    def is_over(self) -> bool:
        """Tell whether no letter can be sent any more."""
        return self._publisher.problem is not None or self._left == 0

    def take(self, source: Source) -> None:
        """Send the letters of a source; what goes wrong with it is in its tally."""
        tally = Tally(source.name)
        self.tallies.append(tally)
        self._unknown = {}
        try:
            source.open()
            self._observer.begins(source.name, source.total())
            for items in source.chunks():
                self._take_chunk(source, items, tally)
                if self.is_over():
                    break
        except SourceError as error:
            tally.problems.append(str(error))
        finally:
            if problem := source.close():
                tally.problems.append(problem)
        tally.kept = tally.read - tally.sent
        self._tell_of_kept(tally)

    def _take_chunk(self, source: Source, items: Sequence[Item], tally: Tally) -> None:
        chosen = self._choose(items, tally)
        tally.read += len(chosen)
        orphans = self._publisher.orphans([letter for _, letter in chosen]) if chosen else []
        tally.orphaned += sum(orphans)
        chosen = [one for one, is_orphan in zip(chosen, orphans, strict=True) if not is_orphan]
        heard = self._publisher.send([letter for _, letter in chosen]) if chosen and not self._publisher.problem else []
        sent = [item for (item, _), is_heard in zip(chosen, heard, strict=False) if is_heard]
        tally.sent += len(sent)
        if self._left is not None:
            self._left -= len(sent)
        if sent:
            source.remove(sent)
        self._observer.advances(sum(item.weight for item in items), tally.sent)

    def _choose(self, items: Sequence[Item], tally: Tally) -> list[tuple[Item, Letter]]:
        chosen: list[tuple[Item, Letter]] = []
        for item in items:
            if len(chosen) == self._left:
                break
            letter = read_letter(item.content)
            is_wanted = letter is not None and self._wanted(letter.route)
            is_elsewhere = letter is not None and letter.db not in self._captured
            if letter is not None and is_wanted and not is_elsewhere:
                chosen.append((item, letter))
            elif is_wanted is not None:
                tally.read += 1
                tally.malformed += letter is None
                tally.elsewhere += is_elsewhere
                if letter is not None and not is_elsewhere:
                    tally.unknown += 1
                    self._unknown[letter.route] = None
        return chosen

    def _tell_of_kept(self, tally: Tally) -> None:
        if tally.malformed:
            tally.problems.append(
                f"{tally.source}: lines that are not dead letters are left in place: {tally.malformed}"
            )
        if tally.orphaned:
            tally.problems.append(
                f"{tally.source}: letters are kept whose keys are gone, and which are older than the server's start: "
                f"{tally.orphaned} (it may have lost their values: what the letters hold may be the only copy)"
            )
        if tally.elsewhere:
            tally.problems.append(
                f"{tally.source}: letters of databases that are not captured stay: {tally.elsewhere} "
                "(see redis.databases)"
            )
        if tally.unknown:
            names = ", ".join(map(repr, [*self._unknown][:_UNKNOWN_NAMED_MAX]))
            more = ", …" if len(self._unknown) > _UNKNOWN_NAMED_MAX else ""
            tally.problems.append(
                f"{tally.source}: letters of routes that are not configured stay: {tally.unknown}, of {names}{more} "
                "(--route NAME sends them to whatever route wants their keys now)"
            )
