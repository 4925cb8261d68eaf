"""Foreign text (keys, values, names, answers) made safe for a terminal.  (pure)"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BEYOND_JSON = re.compile("[^ -~]")
"""JSON escapes characters below the blank, and nothing else."""


def shown(text: str) -> str:
    """Return the text with every character that does not print as an escape, as in Python: control characters,
    line ends, what turns the direction of writing.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def shown_all(content: Any) -> Any:
    """Return plain data with all of its texts made safe to show."""
    if isinstance(content, str):
        return shown(content)
    if isinstance(content, Mapping):
        return {shown_all(name): shown_all(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [shown_all(part) for part in content]
    return content


def shown_json(text: str) -> str:
    """Return JSON text that means the same, and holds only printable characters, blanks and line ends."""
    return _BEYOND_JSON.sub(_in_json, text)


def _in_json(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1]


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 key, 2,000 keys."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
