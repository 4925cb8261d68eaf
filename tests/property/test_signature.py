"""Our signatures are botocore's, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock
from urllib.parse import quote

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from engine.aws.signature import Signer

TEXT = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=40)
# A path would lose a segment of dots; the settings refuse such a name, as Lambda does.
NAMES = st.text(min_size=1, max_size=60).filter(lambda name: name not in {".", ".."})
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1))


def by_botocore(url: str, body: bytes, credentials: Credentials, region: str, moment: datetime) -> dict[str, str]:
    request = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    with mock.patch.object(auth, "get_current_datetime", lambda: moment):
        auth.SigV4Auth(credentials, "lambda", region).add_auth(request)
    return {name: str(value) for name, value in request.headers.items() if name != "Content-Type"}


@given(
    function=NAMES,
    body=st.binary(max_size=200),
    keys=st.tuples(TEXT, TEXT),
    token=st.none() | TEXT,
    moments=st.lists(MOMENTS, min_size=1, max_size=4),
)
def test_headers_are_those_of_botocore(
    function: str, body: bytes, keys: tuple[str, str], token: str | None, moments: list[datetime]
) -> None:
    """Whatever the function's name, the body, the credentials and the day, also with the key of the day kept."""
    path = f"/2015-03-31/functions/{quote(function.encode('utf-8', 'replace'), safe='')}/invocations"
    credentials = Credentials(*keys, token)
    signer = Signer("lambda", "eu-west-1", "lambda.eu-west-1.amazonaws.com", path)
    for moment in moments:
        ours = signer.sign(
            {"content-type": "application/json"},
            body,
            credentials.get_frozen_credentials(),
            moment.replace(tzinfo=UTC).timestamp(),
        )
        url = f"https://lambda.eu-west-1.amazonaws.com{path}"
        assert ours == by_botocore(url, body, credentials, "eu-west-1", moment)


@given(
    headers=st.dictionaries(
        st.from_regex(r"x-amz[a-z-]{1,20}[a-z]", fullmatch=True).filter(
            lambda name: name not in {"x-amz-date", "x-amz-security-token", "x-amzn-trace-id"}
        ),
        TEXT,
        max_size=4,
    ),
    path=st.lists(TEXT, max_size=3),
    service=st.sampled_from(["kinesis", "sqs"]),
    body=st.binary(max_size=200),
    token=st.none() | TEXT,
    moment=MOMENTS,
)
def test_headers_of_a_protocol_are_signed_as_by_botocore(
    headers: dict[str, str], path: list[str], service: str, body: bytes, token: str | None, moment: datetime
) -> None:
    """Whatever headers a service's protocol has beside, and whatever path its endpoint has."""
    credentials = Credentials("a", "b", token)
    place, host = "/" + "/".join(path), f"{service}.eu-west-1.amazonaws.com"
    request = AWSRequest("POST", f"https://{host}{place}", data=body, headers=dict(headers))
    with mock.patch.object(auth, "get_current_datetime", lambda: moment):
        auth.SigV4Auth(credentials, service, "eu-west-1").add_auth(request)
    signer = Signer(service, "eu-west-1", host, place)
    ours = signer.sign(headers, body, credentials.get_frozen_credentials(), moment.replace(tzinfo=UTC).timestamp())
    assert ours == {name: str(value) for name, value in request.headers.items() if name.lower() not in headers}
