from __future__ import annotations

import itertools

from engine.capture.notices import MAPPING_DEBOUNCE_MS, TOPOLOGY_DEBOUNCE_MS, TOPOLOGY_EVERY_MS, Notices
from engine.lifecycle import MappingChanged, Message, TopologyChanged


def test_what_comes_together_is_told_once() -> None:
    """Changes within a moment are one message; none is lost."""
    told: list[Message] = []
    notices = Notices(told.append)
    for moment_ms in range(1_000, 1_000 + MAPPING_DEBOUNCE_MS):
        notices.mappings_changed(moment_ms)
        notices.tell(moment_ms)
    assert told == []
    assert notices.wait_ms(1_000) == MAPPING_DEBOUNCE_MS
    notices.tell(1_000 + MAPPING_DEBOUNCE_MS)
    assert told == [MappingChanged()]
    assert notices.wait_ms(2_000) is None


def test_nodes_are_asked_for_at_most_once_a_second() -> None:
    """Reasons that keep coming are told at intervals, and the last one too."""
    told: list[tuple[int, Message]] = []
    clock = [0]
    notices = Notices(lambda message: told.append((clock[0], message)))
    for clock[0] in range(0, 3_000, 10):
        notices.topology_changed(f"at {clock[0]}", clock[0])
        notices.tell(clock[0])
    for clock[0] in range(3_000, 5_000, 10):
        notices.tell(clock[0])
    moments = [moment_ms for moment_ms, _ in told]
    assert moments[0] == TOPOLOGY_DEBOUNCE_MS
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) >= TOPOLOGY_EVERY_MS
    assert told[0][1] == TopologyChanged("at 0")
    assert moments[-1] >= 3_000
