"""Redis globs over bytes: what ``PSUBSCRIBE`` and ``KEYS`` understand, compiled for the hot path.  (pure)

A pattern is first read into elements, each one the set of bytes that it takes, just as Redis's ``stringmatchlen`` reads
it, with all its quirks. Then the cheapest test that fits the shape is chosen.

Two points on which servers differ are settled here: bytes compare unsigned (x86-64 servers
swap a range that crosses 127/128, Arm servers don't), and ``*`` takes the empty key too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import methodcaller

Matcher = Callable[[bytes], object]
"""Tells, by a true or a false value, whether a key matches."""

Element = frozenset[int] | None
"""The bytes that one position matches, or None for ``*``: any number of any bytes."""

_ANY = frozenset(range(256))
_SPECIAL = re.compile(rb"[*?\[\]\\^-]")


def escape(text: bytes) -> bytes:
    """Return the pattern that matches these bytes and nothing else."""
    return _SPECIAL.sub(rb"\\\g<0>", text)


def takes_everything(pattern: bytes) -> bool:
    """Return whether every key matches: the pattern consists of stars alone."""
    return bool(pattern) and not pattern.strip(b"*")


def matcher(patterns: Sequence[bytes]) -> Matcher:
    """Return the cheapest test for *a key matches at least one of these patterns*."""
    parsed = [parse(pattern) for pattern in patterns]
    literals = [_literal(elements) for elements in parsed]
    if all(literal is not None for literal in literals):
        return frozenset(literals).__contains__
    prefixes = [_literal(elements[:-1]) if elements[-1:] == [None] else None for elements in parsed]
    if all(prefix is not None for prefix in prefixes):
        return methodcaller("startswith", tuple(prefixes))
    suffixes = [_literal(elements[1:]) if elements[:1] == [None] else None for elements in parsed]
    if all(suffix is not None for suffix in suffixes):
        return methodcaller("endswith", tuple(suffixes))
    return re.compile(b"|".join(_regex(elements) for elements in parsed), re.DOTALL).fullmatch


def parse(pattern: bytes) -> list[Element]:
    r"""Read a pattern as Redis does; adjacent stars count as one.

    No pattern is wrong: a class without its ``]`` ends with the pattern, a last ``\`` is itself.
    """
    elements: list[Element] = []
    at = 0
    while at < len(pattern):
        byte = pattern[at]
        if byte == ord("*"):
            if elements[-1:] != [None]:
                elements.append(None)
        elif byte == ord("?"):
            elements.append(_ANY)
        elif byte == ord("["):
            members, at, _ = _parse_class(pattern, at + 1)
            elements.append(members)
            continue
        else:
            if byte == ord("\\") and at + 1 < len(pattern):
                at += 1
            elements.append(frozenset({pattern[at]}))
        at += 1
    return elements


def has_open_class(pattern: bytes) -> bool:
    """Tell whether a ``[`` lacks its ``]``: Redis ends the class with the pattern, which nobody means."""
    at = 0
    while at < len(pattern):
        if pattern[at] == ord("["):
            _, at, is_closed = _parse_class(pattern, at + 1)
            if not is_closed:
                return True
        else:
            at += 2 if pattern[at] == ord("\\") else 1
    return False


def _parse_class(pattern: bytes, at: int) -> tuple[frozenset[int], int, bool]:
    """Return the bytes of the class that starts at ``at``, after its ``[``, its end, and whether it is closed."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    is_closed = False
    while at < len(pattern):
        byte = pattern[at]
        left = len(pattern) - at
        if byte == ord("\\") and left >= 2:
            members.add(pattern[at + 1])
            at += 2
        elif byte == ord("]"):
            at += 1
            is_closed = True
            break
        elif left >= 3 and pattern[at + 1] == ord("-"):
            # Redis takes whatever follows as the range's end, even "]": "[a-]" is an unclosed class.
            low, high = sorted((byte, pattern[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(byte)
            at += 1
    return (_ANY - members if negated else frozenset(members)), at, is_closed


def _literal(elements: Sequence[Element]) -> bytes | None:
    """Return the only bytes that these elements match, or None if there are more, or none."""
    if any(element is None or len(element) != 1 for element in elements):
        return None
    return bytes(byte for element in elements for byte in element or ())


def _regex(elements: Sequence[Element]) -> bytes:
    """Return the expression for ``fullmatch``, linear in the key for each star.

    The run of elements after a star may be matched where it is first found, for good (an atomic group): what follows
    only gets more room. Without that, ``*a*a*a`` would take hours on a long key. The last run is anchored at the end.
    """
    runs: list[list[frozenset[int]]] = [[]]
    for element in elements:
        if element is None:
            runs.append([])
        else:
            runs[-1].append(element)
    first, *others = [b"".join(map(_class_regex, run)) for run in runs]
    if not others:
        return first
    *middle, last = others
    return first + b"".join(b"(?>.*?%b)" % run for run in middle) + b".*" + last


def _class_regex(members: frozenset[int]) -> bytes:
    if members == _ANY:
        return b"."
    if not members:
        return b"(?!)"
    if len(members) == 1:
        return re.escape(bytes(members))
    return b"[%b]" % b"".join(b"\\x%02x-\\x%02x" % span for span in _spans(members))


def _spans(members: frozenset[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for byte in sorted(members):
        if spans and spans[-1][1] == byte - 1:
            spans[-1] = (spans[-1][0], byte)
        else:
            spans.append((byte, byte))
    return spans
