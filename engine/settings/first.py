"""The first settings file of a user, from a few answers.  (pure)"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.redis.url import split_url
from engine.redis.url_options import BadRedisUrl


@dataclass(frozen=True, slots=True)
class Answers:
    """What a first file says; ``region`` is "" if the function's ARN or the environment names it."""

    redis_url: str
    function: str
    route: str = ""
    keys: Sequence[str] = ("*",)
    region: str = ""
    destination: str = ""
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class First:
    """The file's text. ``has_secret`` if the URL held a password, which is left out."""

    text: str
    has_secret: bool


def route_name_of(function: str) -> str:
    """Return the default name of a route to this function."""
    parts = function.split(":")
    name = parts[6] if len(parts) > 6 and parts[2] == "lambda" else parts[0] if parts[0] != "arn" else parts[-1]
    return re.sub(r"[^\w.-]", "-", name.rpartition("/")[2]) or "all"


def first_settings(answers: Answers) -> First:
    """Return the file; what it says is checked when it is read."""
    url, username, has_secret = _without_secrets(answers.redis_url.strip())
    name = answers.route or route_name_of(answers.function)
    lines = [
        "# Written by `engine init`. Every other setting has a default; config/engine.toml documents them all.",
        "# The environment overrides this file: ENGINE_REDIS_URL, ENGINE_CAPTURE_SHARDS, …",
        "",
        "[redis]",
        "# No password here: set ENGINE_REDIS_PASSWORD, or name a file (password_file).",
        f"url = {_quoted(url)}",
    ]
    if username:
        lines.append(f"username = {_quoted(username)}")
    if answers.region:
        lines += ["", "[aws]", f"region = {_quoted(answers.region)}"]
    position = "TRIM_HORIZON" if answers.is_whole else "LATEST"
    lines += [
        "",
        "# Keys and events that go to one function. Add a table like this for each function.",
        "[[routes]]",
        f"name = {_quoted(name)}",
        f"function = {_quoted(answers.function)}",
        f"keys = [{', '.join(_quoted(key) for key in answers.keys)}]",
        "# Every change of a value, and every removal of a key except its eviction.",
        'events = ["changes"]',
        '# "LATEST": what changes from now on. "TRIM_HORIZON": the whole keyspace first, once.',
        f'starting_position = "{position}"',
    ]
    if answers.destination:
        lines += ["# What the function writes to: for `engine audit`, and to find keys that were deleted unheard."]
        lines += [f"destination = {_quoted(answers.destination)}"]
    return First("\n".join(lines) + "\n", has_secret)


def _without_secrets(url: str) -> tuple[str, str, bool]:
    """Return the URL without credentials, its user, and whether it held a password. A wrong URL stays."""
    try:
        found = split_url(url)
    except BadRedisUrl:
        return url, "", False
    bare = found.bare if found.username or found.password else url
    return bare, found.username, bool(found.password)


def _quoted(text: str) -> str:
    """Return a TOML string; a JSON string is one, except for one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
