"""Checks of settings for scans: a scan finds keys, but neither events nor the times of changes."""

from __future__ import annotations

from collections.abc import Sequence

from engine.settings.draft import Draft
from engine.settings.route_checks import PlacedRoute


def check_scans(draft: Draft, routes: Sequence[PlacedRoute]) -> None:
    """Note what cannot be combined with ``capture.source = "scan"``."""
    if draft.get("capture.source") != "scan":
        return
    for place, route in routes:
        if not route.skip_unchanged:
            draft.say(
                f"{place}: skip_unchanged",
                'must be true with capture.source = "scan": each pass finds every key',
                "set skip_unchanged = true, so that only values that changed are delivered",
            )
        if route.starting_position != "TRIM_HORIZON":
            draft.say(
                f"{place}: starting_position",
                'must be "TRIM_HORIZON" with capture.source = "scan": a first pass can\'t tell what changed before it',
                'set starting_position = "TRIM_HORIZON": the first pass delivers every key',
            )
    if draft.get("redis.read_from") != "primary":
        draft.say(
            draft.place("redis.read_from"), "does not go with scans: a replica may be behind", 'set it to "primary"'
        )
    if draft.get("redis.databases"):
        draft.say(
            draft.place("redis.databases"), "does not go with scans, which take one database", "run an engine for each"
        )
    if draft.get("original.mapping_prefix"):
        draft.say(
            draft.place("original.mapping_prefix"),
            "does not go with scans: a changed mapping would go unnoticed",
            "write the routes into this file; a reload reads them again",
        )
