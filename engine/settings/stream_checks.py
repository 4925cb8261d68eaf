"""Checks of the settings that say which streams are read, and how."""

from __future__ import annotations

from engine.settings.draft import Draft

STREAMS_MAX = 1_000
_ONLY_FOR_STREAMS = ("streams", "key_field", "fields", "after_ack")


def check_streams(draft: Draft) -> None:
    """Note what cannot be combined, or has no effect."""
    if draft.get("capture.source") != "stream":
        for name in _ONLY_FOR_STREAMS:
            if draft.is_set(f"capture.{name}") and draft.get(f"capture.{name}") not in ((), "", "keep"):
                hint = 'set capture.source = "stream", or leave it out'
                draft.say(draft.place(f"capture.{name}"), "has no effect: changes do not come from streams", hint)
        return
    _check_names(draft)
    _check_shape(draft)
    if not draft.get("capture.consumer_group"):
        draft.say(draft.place("capture.consumer_group"), "is empty", "leave it out for its default")
    if draft.get("redis.databases"):
        draft.say(
            draft.place("redis.databases"),
            "does not go with streams",
            "entries name keys of the one in redis.url",
        )
    if draft.get("redis.read_from") == "replica":
        draft.say(
            draft.place("redis.read_from"),
            "does not go with streams: a replica may still have an older value than an entry speaks of",
            'leave it out, or set it to "primary"',
        )


def _check_names(draft: Draft) -> None:
    streams, place = draft.get("capture.streams"), draft.place("capture.streams", "capture.source")
    if not streams:
        draft.say(place, "needs capture.streams", 'name the streams to read: streams = ["changes"]')
    if len(streams) > STREAMS_MAX:
        draft.say(place, f"names {len(streams)} streams", f"allowed: {STREAMS_MAX}")
    for number, name in enumerate(streams):
        if not name:
            draft.say(place, "names an empty stream", "leave it out")
        elif name in streams[:number]:
            draft.say(place, f"names {name[:80]!r} twice", "name it once")
    if draft.get("capture.fields"):
        for name in streams:
            longer = next((other for other in streams if other.startswith(f"{name}/")), None)
            if longer is not None:
                draft.say(place, f"names {name[:80]!r} and {longer[:80]!r}", "entries are named STREAM/ID: rename one")


def _check_shape(draft: Draft) -> None:
    key_field, fields = draft.get("capture.key_field"), draft.get("capture.fields")
    place = draft.place("capture.fields", "capture.key_field", "capture.source")
    if key_field and fields:
        draft.say(
            place,
            "and capture.key_field are both set",
            "key_field: an entry names a key, whose value is delivered; fields: an entry is the record itself",
        )
    if not key_field and not fields:
        draft.say(
            place,
            "needs capture.key_field or capture.fields",
            'key_field = "key" where an entry names a key; fields = ["*"] where it is the record itself',
        )
    if key_field and key_field == draft.get("capture.event_field"):
        draft.say(draft.place("capture.event_field"), "is the key's field", "name another field")
    if fields and draft.get("capture.after_ack") != "keep":
        draft.say(
            draft.place("capture.after_ack"),
            "does not go with capture.fields: a record that waits in the backlog is read from its stream",
            "let writers trim: XADD … MAXLEN ~ N",
        )
