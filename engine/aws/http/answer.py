"""An HTTP/1.1 answer, read as its bytes arrive; `httptools` parses it.  (pure)"""

from __future__ import annotations

import httptools

HEAD_BYTES_MAX = 65_536
_WITHOUT_BODY = (204, 304)
_USUAL = (
    "Connection",
    "Content-Length",
    "Content-Type",
    "Date",
    "Server",
    "X-Amz-Executed-Version",
    "x-amzn-RequestId",
)
_SMALL = {name.encode(): name.lower() for name in _USUAL}
"""Names that every answer has, as they are spelled."""


class BadAnswer(Exception):
    """What arrived is not an answer, or cannot be told from half of one."""


class Headers(dict[str, str]):
    """Headers by their names in lower case, found by their names in any case."""

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        """Return a header's value, nothing if there is none."""
        return super().get(name.lower(), default)


class Answer:
    """One answer; ``is_over`` once all of it has arrived. ``body_bytes_max`` bounds what is kept."""

    def __init__(self, body_bytes_max: int) -> None:
        self.status = 0
        self.headers = Headers()
        self.is_over = False
        self.is_too_long = False
        self.keeps_open = False
        """Whether another request may follow on its connection."""
        self._body: list[bytes] = []
        self._room = body_bytes_max
        self._has_head = False
        self._head_bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    @property
    def body(self) -> bytes:
        """Return the body, or as much of it as may be kept."""
        return b"".join(self._body)

    @property
    def is_begun(self) -> bool:
        """Tell whether any byte of it has arrived."""
        return self._head_bytes > 0

    def feed(self, data: bytes) -> None:
        """Take in some bytes; raise `BadAnswer` if they cannot belong to an answer."""
        if not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX + len(data):
                raise BadAnswer("the answer's header has no end")
        elif self.is_over:
            raise BadAnswer("the answer is longer than its header says")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # What one of our callbacks raised.
            raise (error.__context__ if isinstance(error.__context__, BadAnswer) else error) from None
        except httptools.HttpParserError as error:
            raise BadAnswer(f"this is not HTTP: {error}: {data[:60]!r}") from error

    # What the parser calls

    def on_message_begin(self) -> None:
        """Take in that an answer begins: there is only one."""
        if self.is_over:
            raise BadAnswer("the answer is longer than its header says")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        self.headers[_SMALL.get(name) or name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take in that the header is complete."""
        self._has_head = True
        self.status = self._parser.get_status_code()
        has_end = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()
        if not has_end and self.status >= 200 and self.status not in _WITHOUT_BODY:
            # If the end of the connection ends the answer, a whole answer cannot be told from half of one.
            raise BadAnswer("the answer does not state its length")

    def on_body(self, data: bytes) -> None:
        """Take in a part of the body."""
        if len(data) > self._room:
            self.is_too_long = True
            data = data[: self._room]
        self._room -= len(data)
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Take in that the answer is complete, unless it only announces another (1xx)."""
        if self.status < 200:
            self.headers = Headers()
            self._has_head, self._head_bytes = False, 1
            return
        self.is_over = True
        self.keeps_open = self._parser.should_keep_alive()
