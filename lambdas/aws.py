"""What boto3's clients lack: an answer that broke off is no answer.

botocore reads what is there, whatever ``Content-Length`` said, and takes JSON that it can't parse for an answer without
anything in it. Of a ``BatchWriteItem`` that would mean: nothing was left unprocessed.
"""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ResponseStreamingError


def refuse_half_answers(client: Any) -> Any:
    """Have the client raise `ResponseStreamingError` if an answer is shorter than it says; return the client."""
    client.meta.events.register(f"before-parse.{client.meta.service_model.service_id.hyphenize()}", _refuse)
    return client


def _refuse(response_dict: dict[str, Any], **_: Any) -> None:
    headers, body = response_dict["headers"], response_dict["body"]
    size = headers.get("Content-Length", "")
    # Of a stream botocore hands out the reader, which knows by itself.
    if isinstance(body, bytes) and size.isdigit() and int(size) != len(body) and "Content-Encoding" not in headers:
        raise ResponseStreamingError(error=f"it was cut off after {len(body)} of {size} bytes")
