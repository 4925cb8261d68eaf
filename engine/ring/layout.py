"""The bytes of a ring: three control words on cache lines of their own, then the data area.  (pure)

::

    0        written     the writer's: everything before this position is there
    64       read        the reader's: everything before was handed out
    128      released    the reader's: everything before is settled, and may be overwritten
    192      data        ring_bytes, a power of two; index = position & (ring_bytes − 1)

A frame is two header words and the payload, padded to 8 bytes, and never wraps::

    position + 1         absolute, of the frame's own first byte; never 0, so zeroed memory is no frame
    length | crc << 32   of the payload; the crc starts from the position's low half
    payload …

Where a frame does not fit before the end of the data area, a *padding* frame fills it: its length is
`PADDING`, its payload nothing.
"""

from __future__ import annotations

WORD_BYTES = 8
LINE_BYTES = 64
WRITTEN = 0
READ = LINE_BYTES // WORD_BYTES
RELEASED = 2 * LINE_BYTES // WORD_BYTES
DATA_AT = 3 * LINE_BYTES
HEADER_BYTES = 2 * WORD_BYTES
PADDING = 0xFFFF_FFFF
FRAME_BYTES_LIMIT = PADDING - 1


def is_power_of_two(number: int) -> bool:
    """Tell whether exactly one bit is set."""
    return number > 0 and number & (number - 1) == 0


def frame_bytes(payload_bytes: int) -> int:
    """Return what a frame of this payload takes in a ring."""
    return HEADER_BYTES + (payload_bytes + WORD_BYTES - 1 & -WORD_BYTES)
