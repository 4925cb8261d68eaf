"""What Lambda's answers mean for the records of an invocation.  (pure)"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson

from engine.delivery.targets.wrapped import FAILURES, meant
from engine.model import Failure, Outcome
from engine.text import counted, shown

REASON_CHARS_MAX = 500
ITEM_REASONS_MAX = 3
ITEM_REASON_CHARS_MAX = 140
"""A reason has room for three of them."""
RETRY_AFTER_S_MAX = 300
"""A longer request than this is a mistake; retries have their own backoff anyway."""

ACCEPTED = Outcome()

HINTS = {
    "ResourceNotFoundException": "check the route's function, aws.region, and whose account the credentials are for",
    "AccessDeniedException": "grant lambda:InvokeFunction on it to the engine's role or user",
    "ExpiredTokenException": "the credentials have expired: renew them, or run with a role that renews its own",
    "UnrecognizedClientException": "the credentials are not valid: check AWS_ACCESS_KEY_ID, or the profile or role",
    "InvalidSignatureException": "the secret key is wrong, or this machine's clock is off by minutes",
    "InvalidRequestContentException": "the function does not accept what the engine sends: check the route's payload",
}
NOT_READY_HINT = "the function is not ready yet: it is retried"
_OTHER_HINT = "check the route's function, aws.region and aws.lambda_endpoint_url"

SETUP_ERROR = "SetupError"
FENCE_WANTED = "FenceWanted"
OF_THE_TARGET = {
    SETUP_ERROR: Failure.REFUSED,
    "DestinationUnavailable": Failure.SERVICE,
    FENCE_WANTED: Failure.REFUSED,
}
"""Errors that functions raise by contract (`lambdas/contract.py`): they say nothing about the records."""

# What runtimes put into the answer of a function that raised.
_ERROR_KEYS = frozenset({"errorMessage", "errorType", "stackTrace", "requestId", "trace", "cause"})
_TIMED_OUT = re.compile(rb"Task timed out after [\d.]+ seconds\s*$")
_BARE_TEXT_BYTES_MAX = 200
REQUEST_TIMEOUT = 408
"""A gateway's status for a request that arrived incomplete, or that took too long: it does not say which."""

_NOT_STARTED = frozenset(
    {
        "EC2AccessDeniedException",
        "EC2ThrottledException",
        "EC2UnexpectedException",
        "EFSMountConnectivityException",
        "EFSMountFailureException",
        "EFSMountTimeoutException",
        "ENILimitReachedException",
        "InvalidRuntimeException",
        "InvalidSecurityGroupIDException",
        "InvalidSubnetIDException",
        "InvalidZipFileException",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "ResourceNotReadyException",
        "SnapStartTimeoutException",
        "SubnetIPAddressLimitReachedException",
    }
)
"""Lambda's own errors, as ``Invoke`` documents them, after which no function has run.

Any other 5xx may come from a gateway that gave up on a function that is still running.
"""

_TYPE_OF_ERROR = re.compile(r"[*A-Za-z_][\w.$:]{0,99}", re.ASCII)
_UNNAMED = "an error"
_QUOTING = frozenset({"Runtime.MarshalError", "Runtime.UnmarshalError"})
"""Errors of the runtime that quote what they could not read or write."""
_QUOTES_US = "InvalidRequestContentException"
"""The service's error that quotes the payload."""

_PLATFORM = ("Runtime.", "Extension.", "Sandbox.")
"""The beginnings of names of errors that Lambda itself reports, not the handler."""

_PROCESS_LIVES = frozenset(
    {
        "Runtime.BadFunctionCode",
        "Runtime.HandlerNotFound",
        "Runtime.ImportModuleError",
        "Runtime.LambdaContextUnmarshalError",
        "Runtime.MalformedHandlerName",
        "Runtime.MarshalError",
        "Runtime.UnmarshalError",
        "Runtime.UserCodeSyntaxError",
    }
)
"""Of these, those that come before the handler ran, or after it returned."""


def outcome_of(
    status: int, headers: Mapping[str, str], body: bytes, function: str, *, report_item_failures: bool
) -> Outcome:
    """Return what became of an invocation, from its HTTP answer."""
    if status != 200:
        return _refused(status, headers, body, function)
    if headers.get("X-Amz-Function-Error"):
        return function_error(body)
    return batch_answer(body) if report_item_failures else _any_answer(body)


def batch_answer(body: bytes) -> Outcome:
    """Return what a function's answer to a batch means, as event source mappings read it."""
    try:
        answer = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        if _is_emulators_timeout(body):
            return function_error(body)
        return _bad(f"the answer is not JSON: {body[:100].decode('utf-8', 'replace')!r}", "the answer is not JSON")
    if isinstance(answer, dict) and _is_error(answer):
        return function_error(body)
    found = meant(answer)
    if found.is_unreadable:
        return _bad(found.remark)
    outcome = _named_failures(found.answer)
    return msgspec.structs.replace(outcome, remark=found.remark) if found.remark else outcome


def _named_failures(answer: Any) -> Outcome:
    if not isinstance(answer, dict):
        return ACCEPTED
    failures = answer.get(FAILURES)
    if failures is None:
        return ACCEPTED
    if not isinstance(failures, list):
        return _bad("batchItemFailures is not a list")
    named = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in failures]
    names = [name for name in named if isinstance(name, str) and name]
    if len(names) < len(failures):
        return _bad("an entry of batchItemFailures has no itemIdentifier, or an empty one")
    if not names:
        return ACCEPTED
    failed = tuple(dict.fromkeys(names))
    brief = f"{counted(len(failed), 'record')} failed"
    told = _reasons_of(failures)
    if not told:
        return Outcome(Failure.ITEMS, failed, brief)
    return Outcome(Failure.ITEMS, failed, short(f"{brief}: {told}"), brief=brief)


def _reasons_of(failures: Iterable[dict[str, Any]]) -> str:
    """Return why records failed, if the function says so: each reason once, the commonest first."""
    reasons = Counter(reason for one in failures if isinstance(reason := one.get("reason"), str) and reason)
    told = [f"{reason[:ITEM_REASON_CHARS_MAX]} ({number}×)" for reason, number in reasons.most_common(ITEM_REASONS_MAX)]
    more = ["…"] if len(reasons) > ITEM_REASONS_MAX else []
    return "; ".join(told + more)


def function_error(body: bytes) -> Outcome:
    """Return the outcome of a function that raised, or ran out of its time."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        error = None
    if isinstance(error, dict):
        kind, message = str(error.get("errorType") or ""), str(error.get("errorMessage") or "")
    else:
        kind, message = "", body[:REASON_CHARS_MAX].decode("utf-8", "replace")
    failure = OF_THE_TARGET.get(kind, Failure.FUNCTION_ERROR)
    if "Task timed out" in message or kind == "Sandbox.Timedout":
        failure = Failure.TIMEOUT
    text = ": ".join(part for part in (kind, message) if part) or "no reason given"
    is_lost = failure is Failure.TIMEOUT or _has_ended(kind)
    brief = "" if _quotes_nothing(kind) else _name_of(kind)
    return Outcome(failure, reason=short(text), is_lost=is_lost, wants_fence=kind == FENCE_WANTED, brief=brief)


def _quotes_nothing(kind: str) -> bool:
    """Tell whether an error of this type says nothing about records: Lambda's own, and those in our contract."""
    return kind in OF_THE_TARGET or (kind.startswith(_PLATFORM) and kind not in _QUOTING)


def _name_of(kind: str) -> str:
    """Return the type of a function's error, if it looks like one: it is the function's own word too."""
    return kind if _TYPE_OF_ERROR.fullmatch(kind) else _UNNAMED


def _has_ended(kind: str) -> bool:
    """Tell whether the function's process ended in the middle of something that may still take effect.

    What a handler raises has a name; an error without one is not known to be the handler's.
    """
    return not kind or (kind.startswith(_PLATFORM) and kind not in _PROCESS_LIVES)


def refuses_older_versions(body: bytes) -> bool:
    """Tell whether an answer to the empty batch says that the function keeps older values out by itself."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and answer.get("refusesOlderVersions") is True


def _any_answer(body: bytes) -> Outcome:
    """Return the outcome for a function whose answer does not matter, if it did not fail."""
    # Lambda marks a function's error in a header. Its local emulator does not: there it shows in the body alone.
    if b'"errorType"' not in body:
        return function_error(body) if _is_emulators_timeout(body) else ACCEPTED
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ACCEPTED
    return function_error(body) if isinstance(answer, dict) and _is_error(answer) else ACCEPTED


def _is_error(answer: dict[str, Any]) -> bool:
    return "errorType" in answer and "errorMessage" in answer and answer.keys() <= _ERROR_KEYS


def _is_emulators_timeout(body: bytes) -> bool:
    return len(body) < _BARE_TEXT_BYTES_MAX and _TIMED_OUT.search(body) is not None


def _refused(status: int, headers: Mapping[str, str], body: bytes, function: str) -> Outcome:
    message, reason = _message(body)
    kind = str(headers.get("x-amzn-ErrorType") or "").split(":")[0]
    text = " ".join(part for part in (f"HTTP {status}", kind, reason, message) if part)
    if status == 429:
        return Outcome(Failure.THROTTLED, reason=short(text), retry_after_ms=_retry_after_ms(headers))
    if status == 413:
        return Outcome(Failure.OVERSIZE, reason=short(text))
    if status >= 500 or status == REQUEST_TIMEOUT or kind in _NOT_STARTED:
        return Outcome(Failure.SERVICE, (), short(text), _retry_after_ms(headers), kind not in _NOT_STARTED)
    if status == 409:
        # Being created, updated or snapshotted: nothing to fix, and nothing has run.
        return Outcome(Failure.SERVICE, (), with_hint(text, NOT_READY_HINT), _retry_after_ms(headers))
    if kind == "ResourceNotFoundException":
        text = f"no function {function}: {text}"
    brief = with_hint(f"HTTP {status} {kind}", hint_for(kind)) if kind == _QUOTES_US else ""
    return Outcome(Failure.REFUSED, reason=with_hint(text, hint_for(kind)), brief=brief)


def hint_for(code: str) -> str:
    """Return the remedy for an error code of the service."""
    return HINTS.get(code, _OTHER_HINT)


def _retry_after_ms(headers: Mapping[str, str]) -> int:
    seconds = str(headers.get("Retry-After") or "")
    if not (seconds.isascii() and seconds.isdigit()):
        return 0
    return min(int(seconds[:9]), RETRY_AFTER_S_MAX) * 1_000


def _message(body: bytes) -> tuple[str, str]:
    """Return the message and the ``Reason`` in an error of the service."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        error = None
    if not isinstance(error, dict):
        return body[:200].decode("utf-8", "replace"), ""
    return str(error.get("message") or error.get("Message") or ""), str(error.get("Reason") or "")


def _bad(reason: str, brief: str = "") -> Outcome:
    return Outcome(Failure.BAD_ANSWER, reason=short(reason), brief=brief)


def with_hint(text: str, hint: str) -> str:
    """Return both, at most `REASON_CHARS_MAX` long; the text is shortened."""
    return f"{short(text, REASON_CHARS_MAX - len(hint) - 3)} ({hint})"


def short(text: str, chars_max: int = REASON_CHARS_MAX) -> str:
    """Return a text as one printable line of at most this length."""
    line = shown(" ".join(text[: 4 * REASON_CHARS_MAX].split()))
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"
