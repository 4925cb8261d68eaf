"""What versions of a cluster's nodes have to exceed after a start: the highest that were given out before.  (pure)"""

from __future__ import annotations

from collections.abc import Mapping


class NodeVersions:
    """The highest version of each node, by its id."""

    def __init__(self, kept: Mapping[str, int], unseen_us: int) -> None:
        """Begin with what a checkpoint says; versions may have been given out unseen for this long after it."""
        self.floors = {node_id: version + unseen_us for node_id, version in kept.items()}
        self._raised: dict[str, tuple[int, int]] = {}
        """By node: the highest that was seen, and when (monotonic ms)."""

    def keep(self, given: Mapping[str, int], moment_ms: int, *, is_clean: bool) -> dict[str, int]:
        """Return what to keep, with what was given out by now.

        Versions grow with time: if no key was read for a while, the next one will be higher by that.
        """
        found = dict(self.floors)
        for node_id, version in given.items():
            if not version:
                continue
            known, since_ms = self._raised.get(node_id, (0, 0))
            if version > known:
                self._raised[node_id] = version, moment_ms
            elif not is_clean:
                version += (moment_ms - since_ms) * 1_000
            found[node_id] = max(version, found.get(node_id, 0))
        return found
