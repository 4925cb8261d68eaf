"""A DynamoDB table that `lambdas.dynamodb` writes: items → what Redis would have to hold.

Needs ``dynamodb:BatchGetItem`` and ``dynamodb:Scan`` on the table. What an item ought to be is computed by the
function's own code (`lambdas.dynamodb.items`), so that the two can't disagree. What the function adds by itself is
ignored: its extra attributes, versions and times to live.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engine.destination.base import DestinationError, Item, Target
from engine.destination.patience import Patience
from engine.destination.stored import StoredKeys
from lambdas.aws import refuse_half_answers
from lambdas.contract import Record
from lambdas.dynamodb.items import ItemError, checked_size, item_of, table_key
from lambdas.dynamodb.settings import Settings

TROUBLE_S_MAX = 20.0
"""A table that answers nothing for this long is given up, unless an option allows more."""

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
KEYS_AT_ONCE = 100
"""The most keys that ``BatchGetItem`` accepts."""

PAGE_ITEMS_MAX = 1_000
"""Of a scan. A page is at most 1 MB, however many items that is."""

DELETED_AT = "deleted_at_ms"
VERSION = "version"

_NUMBERS = (VERSION, "db")
"""Extra attributes that are recognized because they are numbers, whether or not they were declared."""

_BODY_ATTRIBUTES = ("obj_name", "body", "body_encoding")
_HINTS = {
    "ResourceNotFoundException": "does the table exist in that region? See the route's destination, and aws.region",
    "AccessDeniedException": "grant dynamodb:BatchGetItem and dynamodb:Scan on the table",
    "UnrecognizedClientException": "the credentials are not accepted: check AWS's credential chain",
    "ExpiredTokenException": "the credentials have expired",
    "ValidationException": "the destination's key_attribute has to name the table's key, and a sort key is not allowed",
}

_HINT_FOR_THROTTLES = "compare fewer keys a second with fewer workers: --keys-per-s, --workers"
_THROTTLES = frozenset(
    {"ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "LimitExceededException"}
)
_SERVER_ERRORS = 500

_Content = Mapping[str, Mapping[str, Any]]


class DynamoDb:
    """A table. The client is made at its first use, so after a fork."""

    def __init__(
        self,
        target: Target,
        region: str,
        *,
        connections_max: int = 10,
        make_client: Callable[[], Any] | None = None,
        patience: Patience | None = None,
        stored: StoredKeys | None = None,
    ) -> None:
        self._stored = stored or StoredKeys(in_key=target.database_in_key)
        self._patience = patience or Patience(TROUBLE_S_MAX)
        self._target = target
        self._region = region
        self._connections_max = connections_max
        self._make_client = make_client or self._boto3_client
        self._lock = threading.Lock()
        self._made: Any = None
        self._settings: dict[tuple[str, ...], Settings] = {}

    def scan(self, segment: int, segments: int) -> Iterator[list[Item | None]]:
        """Yield a segment's items, page by page: only keys and tombstones."""
        names = {"#k": self._target.key_attribute, "#d": DELETED_AT}
        request = {
            "TableName": self._target.table,
            "Segment": segment,
            "TotalSegments": segments,
            "Limit": PAGE_ITEMS_MAX,
            "ProjectionExpression": "#k, #d",
            "ExpressionAttributeNames": names,
        }
        while True:
            answer = self._call("scan", request)
            yield [self._item(content) for content in answer["Items"]]
            if not answer.get("LastEvaluatedKey"):
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Item]:
        """Return the items that exist, by strongly consistent reads."""
        names = dict.fromkeys(filter(None, map(self._stored.name_or_none, keys)))
        wanted = [{self._target.key_attribute: {"S": name}} for name in names]
        items: dict[bytes, Item] = {}
        for start in range(0, len(wanted), KEYS_AT_ONCE):
            for content in self._get(wanted[start : start + KEYS_AT_ONCE]):
                item = self._item(content)
                if item is not None:
                    items[item.key] = item
        return items

    def holds(self, item: Item, record: Record) -> bool:
        """Tell whether the item is what the function writes for the record, apart from what it adds by itself."""
        actual: _Content = item.content
        extra = self._target.extra_attributes
        extra += tuple(name for name in _NUMBERS if name not in extra and "N" in actual.get(name, {}))
        try:
            expected = self._expected(record, extra)
        except ItemError:
            return False
        if self._target.item_mode != "attributes":
            return all(_wire(actual.get(name)) == expected.get(name) for name in _BODY_ATTRIBUTES)
        added = (*extra, self._target.ttl_attribute)
        if self._target.numbers:
            added += (self._target.version_attribute,)
        return _fields(actual, added, self._target.numbers) == _fields(expected, added, self._target.numbers)

    def refusal(self, record: Record) -> str:
        """Return why DynamoDB would not accept the record."""
        try:
            self._expected(record, self._target.extra_attributes)
        except ItemError as error:
            return str(error)
        return ""

    def _expected(self, record: Record, extra: tuple[str, ...]) -> _Content:
        settings, target = self._settings.get(extra), self._target
        if settings is None:
            settings = self._settings[extra] = Settings(
                table=target.table,
                item_mode=target.item_mode,
                key_attribute=target.key_attribute,
                extra_attributes=extra,
                ttl_attribute=target.ttl_attribute,
                version_attribute=target.version_attribute,
                numbers=target.numbers,
            )
        content = item_of(table_key(record, with_database=target.database_in_key), record, settings)
        checked_size(content)
        return content

    def _item(self, content: _Content) -> Item | None:
        name = content.get(self._target.key_attribute, {}).get("S")
        key = None if name is None else self._stored.key_of(name)
        if key is None:
            return None
        version = content.get(self._target.version_attribute, {}).get("N", "")
        # A field of a hash may have this name too: that is a string.
        is_absent = "N" in content.get(DELETED_AT, {})
        return Item(key, content, is_absent, int(version) if version.isdigit() else 0)

    def _get(self, wanted: list[dict[str, Any]]) -> Iterator[_Content]:
        """Yield what exists for at most 100 keys: an answer ends at 16 MB, or when the table is throttled."""
        table = self._target.table
        while wanted:
            began_s = self._patience.now_s()
            answer = self._call("batch_get_item", {"RequestItems": {table: {"Keys": wanted, "ConsistentRead": True}}})
            # By whatever name: an answer to a request by ARN may use the table's name.
            for items in answer.get("Responses", {}).values():
                yield from items
            left = [key for one in answer.get("UnprocessedKeys", {}).values() for key in one.get("Keys", ())]
            if len(left) < len(wanted):
                self._patience.answered()
            elif not self._patience.is_left(began_s, f"the table {table} is throttled"):
                raise DestinationError(
                    f"the table {table} leaves reads unprocessed: it is throttled", hint=_HINT_FOR_THROTTLES
                )
            wanted = left

    def _call(self, name: str, request: Mapping[str, Any]) -> Any:
        """Ask until there is an answer, an error that does not pass, or no time left."""
        while True:
            self._patience.pause()
            began_s = self._patience.now_s()
            error = self._try(name, request)
            if not isinstance(error, DestinationError):
                if name != "batch_get_item":  # whose answer may have nothing in it
                    self._patience.answered()
                return error
            if not error.passes or not self._patience.is_left(began_s, error.message):
                raise error

    def _try(self, name: str, request: Mapping[str, Any]) -> Any:
        """Return the answer, or what went wrong."""
        from botocore.exceptions import ClientError

        from engine.aws.wire import EXPECTED, hint_of, is_of_the_wire, passes

        try:
            return getattr(self._client(), name)(**request)
        except ClientError as error:
            return self._refusal(error.response)
        except EXPECTED as error:
            is_passing = is_of_the_wire(error) and passes(error)
            hint = hint_of(error, "aws.region or AWS_REGION") or "check AWS's own settings"
            if is_passing and "timeout" in type(error).__name__.lower():
                hint = f"the table is too slow for this: {_HINT_FOR_THROTTLES}"
            return DestinationError(
                f"the table {self._target.table} cannot be read: {error}", hint=hint, passes=is_passing
            )

    def _refusal(self, response: Mapping[str, Any]) -> DestinationError:
        error, status = response["Error"], response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.get("Code", "")
        is_throttle = code in _THROTTLES
        hint = _HINTS.get(code, _HINT_FOR_THROTTLES if is_throttle else "run it again, or see the service's status")
        return DestinationError(
            f"the table {self._target.table} cannot be read: {code}: {error.get('Message', '')}",
            hint=hint,
            passes=is_throttle or status >= _SERVER_ERRORS,
        )

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make_client()
            return self._made

    def _boto3_client(self) -> Any:
        from botocore.config import Config

        from engine.aws.credentials import aws_session

        client = aws_session().client(
            "dynamodb",
            region_name=self._region or None,
            config=Config(
                parameter_validation=False,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
                max_pool_connections=self._connections_max,
                retries={"total_max_attempts": 1},  # `Patience` tries again
            ),
        )
        return refuse_half_answers(client)


def _fields(content: _Content, added: Sequence[str], numbers: bool) -> dict[str, Any]:
    """Return the attributes that stand for the value, as on the wire.

    Without ``numbers`` none of them is a number, so any number was added, whatever its name.
    """
    return {
        name: _wire(typed) for name, typed in content.items() if name not in added and (numbers or "N" not in typed)
    }


def _wire(value: Any) -> Any:
    """Return an attribute value as JSON has it: boto3 returns bytes instead of base64."""
    if isinstance(value, Mapping):
        return {name: _wire(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_wire(member) for member in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
