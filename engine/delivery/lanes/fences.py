"""Who may still write: invocations of a lane that are under way or lost, and those of others before it.  (pure)"""

from __future__ import annotations

from collections.abc import Sequence

from engine.delivery.lanes.work import Batch


class Fences:
    """Times are monotonic milliseconds. ``elders`` are those of lanes before this one, which may hold the same keys."""

    def __init__(self, elders: Sequence[Fences] = ()) -> None:
        self.flying: list[Batch] = []
        """Batches whose invocation was started and has not ended."""
        self._elders = tuple(elders)
        self._lost_until_ms = 0
        self._starts_at_ms = 0
        self.is_unfenced = False
        """Whether the function keeps older values out by itself, as the table says: its invocations leave no fence."""
        self._unfenced_until_ms = 0

    def start_at(self, moment_ms: int) -> None:
        """Start nothing before this time: unknown invocations may be delivering these keys."""
        self._starts_at_ms = moment_ms

    def agree(self, *, is_unfenced: bool, until_ms: int) -> None:
        """Leave fences from now on, or none.

        An invocation without a fence must not overlap with one that ignores versions: if one may be under way, nothing
        starts before ``until_ms``, its deadline.
        """
        if not is_unfenced and any(one.is_unfenced for one in (self, *self._elders)):
            self._unfenced_until_ms = until_ms
        self.is_unfenced = is_unfenced

    def lose(self, until_ms: int) -> None:
        """Note that a lost invocation may write until then."""
        self._lost_until_ms = max(self._lost_until_ms, until_ms)

    def until_ms(self) -> int:
        """Return until when an invocation of this lane may write; 0 if none can."""
        return max([self._lost_until_ms, *(batch.fence_ms for batch in self.flying)])

    def may_still_write(self, moment_ms: int) -> bool:
        """Tell whether an invocation of this lane may still have an effect."""
        until_ms = max(self._lost_until_ms, self._starts_at_ms, self._unfenced_until_ms)
        return bool(self.flying) or moment_ms < until_ms

    def may_start(self, moment_ms: int) -> bool:
        """Tell whether no invocation of earlier lanes or processes can still write."""
        self._elders = tuple(one for one in self._elders if one.may_still_write(moment_ms))
        return moment_ms >= max(self._starts_at_ms, self._unfenced_until_ms) and not self._elders
