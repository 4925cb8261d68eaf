"""Answers as their bytes come, in whatever pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.aws.http.answer import HEAD_BYTES_MAX, Answer, BadAnswer

BODY = b'{"batchItemFailures":[]}'
SIZED = b"HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5)
CHUNKED += BODY[5:] + b"\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED


def fed(pieces: list[bytes], body_bytes_max: int = 1_000) -> Answer:
    answer = Answer(body_bytes_max)
    for piece in pieces:
        answer.feed(piece)
    return answer


@given(raw=st.sampled_from([SIZED, CHUNKED, CONTINUED]), cuts=st.lists(st.integers(0, len(CONTINUED)), max_size=9))
def test_an_answer_is_the_same_in_any_pieces(raw: bytes, cuts: list[int]) -> None:
    """However the bytes are cut, the answer is the same, and it is over with the last of them, not before."""
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[start:end] for start, end in pairwise(places)]
    assert not fed(pieces[:-1]).is_over
    answer = fed(pieces)
    assert (answer.status, answer.body, answer.is_over, answer.keeps_open) == (200, BODY, True, True)


@given(raw=st.sampled_from([SIZED, CHUNKED]), size=st.integers(0, len(SIZED)))
def test_half_an_answer_is_not_over(raw: bytes, size: int) -> None:
    """An answer that is cut off anywhere is never taken for a whole one."""
    assert not fed([raw[: min(size, len(raw) - 1)]]).is_over


@given(raw=st.binary(max_size=300))
def test_what_is_no_answer_is_refused_or_waited_for(raw: bytes) -> None:
    """Bytes of whatever kind raise nothing but `BadAnswer`, and are not an answer."""
    answer = Answer(1_000)
    try:
        answer.feed(raw)
    except BadAnswer:
        return
    assert not answer.is_over


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnullHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * HEAD_BYTES_MAX,
    ],
    ids=["no length", "until it closes", "two lengths", "two answers", "a head without end"],
)
def test_what_cannot_be_told_from_half_an_answer_is_none(raw: bytes) -> None:
    """Where an answer ends must be known from its head, and nothing may follow it."""
    with pytest.raises(BadAnswer):
        fed([raw[start : start + 40_000] for start in range(0, len(raw), 40_000)])


def test_a_body_is_bounded() -> None:
    """No more of a body is kept than may be, and that is told."""
    answer = fed([b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"x" * 4_000], body_bytes_max=1_000)
    assert (len(answer.body), answer.is_too_long) == (1_000, True)


def test_an_answer_may_end_its_connection() -> None:
    """HTTP/1.0, and a head that says so, allow no other request."""
    for head in (b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: close\r\n"):
        assert not fed([head + b"Content-Length: 0\r\n\r\n"]).keeps_open
