"""Checks of the settings of the console: nobody on another host reaches it without a token and TLS."""

from __future__ import annotations

from pathlib import Path

from engine.console.address import FORMS, BadAddress, parse
from engine.console.guard import TOKEN_CHARS_MIN
from engine.settings.draft import Draft

TOKEN, CERTIFICATE, KEY = "console.token_file", "console.tls_cert_file", "console.tls_key_file"
_MAKE_TOKEN = "make one: (umask 077; openssl rand -hex 32 > token)"


def check_console(draft: Draft) -> None:
    """Note what is invalid, missing, or has no effect."""
    listen, place = draft.get("console.listen"), draft.place("console.listen")
    named = [key for key in (TOKEN, CERTIFICATE, KEY) if draft.get(key)]
    if not listen:
        if named:
            draft.say(draft.place(named[0]), "has no effect without console.listen", f"set it: {FORMS}")
        return
    try:
        address = parse(listen)
    except BadAddress as error:
        draft.say(place, f"{listen[:80]!r} {error}", FORMS)
        return
    if not address.is_local:
        for key, what in ((TOKEN, "a token"), (CERTIFICATE, "TLS")):
            if not draft.get(key):
                hint = f"set {key}, or listen on 127.0.0.1 or a Unix socket"
                draft.say(place, f"{address} can be reached from other hosts, and needs {what}", hint)
    if bool(draft.get(CERTIFICATE)) != bool(draft.get(KEY)):
        have, lack = (CERTIFICATE, KEY) if draft.get(CERTIFICATE) else (KEY, CERTIFICATE)
        draft.say(draft.place(have), f"has no effect without {lack}", "set both")
    if draft.get(TOKEN):
        _check_token(draft)


def _check_token(draft: Draft) -> None:
    path, place = draft.get(TOKEN), draft.place(TOKEN)
    try:
        token = Path(path).read_text("utf-8").strip()
    except OSError as error:
        draft.say(place, f"{path} can't be read: {error.strerror or error}", "who may read it?")
    except UnicodeDecodeError:
        draft.say(place, f"{path} holds no token", _MAKE_TOKEN)
    else:
        if len(token) < TOKEN_CHARS_MIN or not token.isprintable() or not token.isascii():
            draft.say(place, f"{path} holds no token of {TOKEN_CHARS_MIN} characters or more, on one line", _MAKE_TOKEN)
