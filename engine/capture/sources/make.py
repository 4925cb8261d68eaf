"""The source that the settings name."""

from __future__ import annotations

from collections.abc import Sequence

from engine.capture.feed.reader import FeedReader
from engine.capture.shared import Shared
from engine.capture.sources.base import Source
from engine.capture.sources.scan.source import ScanSource
from engine.capture.sources.stream.source import StreamSource
from engine.model import NOTHING_HEARD, Missed
from engine.routing.feeds import Feed


def source_of(
    feed: Feed, shared: Shared, missed: Sequence[Missed], heard: Missed = NOTHING_HEARD, *, is_new: bool = False
) -> Source:
    """Return what captures this feed, by ``capture.source``.

    ``missed`` is what went unheard, to be found first; ``heard`` what a gap that begins at once would miss. ``is_new``
    where the node was not there when the engine was started.
    """
    if shared.scope.capture.source == "stream":
        # What was missed waits in the streams, and in their groups.
        return StreamSource(feed, shared, heard, is_new=is_new)
    if shared.scope.capture.source == "scan":
        return ScanSource(feed, shared, missed, heard)
    return FeedReader(feed, shared, missed, heard, is_new=is_new)
