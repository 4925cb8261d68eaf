"""How a Lambda function may be named: by its name, by name and alias, or by its ARN.  (pure)"""

from __future__ import annotations

import re

_FUNCTION = re.compile(
    r"(?:(?:arn:aws[a-z-]*:lambda:(?P<region>[a-z]{2,}(?:-[a-z]+)+-\d{1,2}):)?\d{12}:function:)?"
    r"[A-Za-z0-9_-]{1,64}(?::(?:\$LATEST|[A-Za-z0-9_-]{1,128}))?"
)
FORMS = (
    "name it by name (dynamodb), by name and alias (dynamodb:live), or by ARN "
    "(arn:aws:lambda:us-east-1:123456789012:function:dynamodb)"
)


def is_function(text: str) -> bool:
    """Return whether this names a function."""
    return _FUNCTION.fullmatch(text) is not None


def region_in(function: str) -> str:
    """Return the region in a function's ARN, or nothing if it is named otherwise."""
    match = _FUNCTION.fullmatch(function)
    return (match["region"] or "") if match else ""
