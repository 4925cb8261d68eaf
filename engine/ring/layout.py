"""The bytes of a ring: control words, each writer's on cache lines of its own, then the data area.  (pure)

::

    0        written     the writer's: everything before this position is there
    64       read        the reader's: everything before was handed out
    128      released    the reader's: everything before is settled, and may be overwritten
    192      watermarks  the reader's: an entry a node, by its number
    6336     data        ring_bytes, a power of two; index = position & (ring_bytes − 1)

An entry is what the writer sent of this node last, of all that is settled::

    0        moment      everything before it is settled (Unix ms, the node's clock); 0 for none
    8        mark        the server's mark at that moment; 0 if it is unknown
    16       version     that of the feeds that this is true of

A frame is two header words and the payload, padded to 8 bytes, and never wraps::

    position + 1                 absolute, of the frame's own first byte
    length + 1 | check << 32     of the payload; the check is a crc32 that starts from the position's `seed`
    payload …

If a frame does not fit before the end of the data area, a *padding* frame fills it: in place of a length it has
`PADDING`, and its check is the seed itself. If only one word is left, that word alone is the padding.

Neither header word is ever 0, so memory that was never written holds no frame. No word of an older lap is valid
under a newer position, nor is a padding's: seeds of one index first repeat after some 2**32 laps.
"""

from __future__ import annotations

from engine.routing.nodes import NODES_MAX

WORD_BYTES = 8
LINE_BYTES = 64
WRITTEN = 0
READ = LINE_BYTES // WORD_BYTES
RELEASED = 2 * LINE_BYTES // WORD_BYTES
WATERMARKS = 3 * LINE_BYTES // WORD_BYTES
MOMENT, SERVER_MARK, VERSION = range(3)
"""The words of an entry."""
ENTRY_WORDS = 3
DATA_AT = (WATERMARKS + NODES_MAX * ENTRY_WORDS) * WORD_BYTES
HEADER_BYTES = 2 * WORD_BYTES
PADDING = 0xFFFF_FFFF
FRAME_BYTES_LIMIT = PADDING - 2
LOW_HALF = 0xFFFF_FFFF


def is_power_of_two(number: int) -> bool:
    """Tell whether exactly one bit is set."""
    return number > 0 and number & (number - 1) == 0


def entry_at(node: int) -> int:
    """Return which word the entry of this node begins at."""
    assert 0 <= node < NODES_MAX
    return WATERMARKS + node * ENTRY_WORDS


def frame_bytes(payload_bytes: int) -> int:
    """Return the space that a frame with this payload takes in a ring."""
    return HEADER_BYTES + (payload_bytes + WORD_BYTES - 1 & -WORD_BYTES)


def seed(position: int) -> int:
    """Return where the check of a frame at this position starts: 32 bits, both halves of the position folded."""
    return (position ^ position >> 32) & LOW_HALF
