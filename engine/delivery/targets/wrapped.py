"""Answers that name failed records, but not where they are read: in a text, or in a web handler's form.  (pure)

An event source mapping of AWS takes these for success, and the records are silently lost. Whoever wrote such an answer
meant what it says, so it is read as meant, with a remark.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import orjson

FAILURES = "batchItemFailures"
DEPTH_MAX = 4
_ERROR_STATUS_MIN = 400
_REMEDY = "return the object itself"


class Meant(NamedTuple):
    """An answer as it was meant; ``remark`` is what is wrong with its form, "" if nothing is.

    ``is_unreadable`` if it names failed records in an unreadable way.
    """

    answer: Any
    remark: str = ""
    is_unreadable: bool = False


def meant(answer: Any) -> Meant:
    """Return what a function's answer to a batch was meant to be."""
    if isinstance(answer, dict) and FAILURES in answer:
        return Meant(answer)
    inner = answer
    for _ in range(DEPTH_MAX):
        if isinstance(inner, dict) and FAILURES in inner:
            return Meant(inner, f"{FAILURES} is in {_form(answer)}, where AWS does not read it: {_REMEDY}")
        if isinstance(inner, str):
            try:
                inner = orjson.loads(inner)
            except orjson.JSONDecodeError:
                if FAILURES not in inner:
                    break
                return Meant(
                    answer, f"{_form(answer)} names {FAILURES}, and is not JSON: {_REMEDY}", is_unreadable=True
                )
        elif isinstance(inner, dict) and "body" in inner:
            inner = _body(inner)
        else:
            break
    status = answer.get("statusCode") if isinstance(answer, dict) else None
    if isinstance(status, int) and status >= _ERROR_STATUS_MIN:
        what = f"the answer has statusCode {status}, and counts as success, as in AWS"
        return Meant(answer, f"{what}: raise an error, or name what failed in {FAILURES}")
    return Meant(answer)


def _body(answer: dict[str, Any]) -> Any:
    body = answer["body"]
    if not (isinstance(body, str) and answer.get("isBase64Encoded") is True):
        return body
    try:
        return base64.b64decode(body, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return body


def _form(answer: Any) -> str:
    return "a text" if isinstance(answer, str) else "a body"
