"""AWS as botocore sees it: credentials, region, endpoint, proxies, certificates. None of that is our own code.

One session serves all functions of a process and region: making one costs 50 ms of CPU, and credentials are then
fetched, and renewed before they expire, once for all. Everything here is created at its first use, hence after the
fork; nothing that a parent created is used.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from engine.aws.credentials import aws_session
from engine.aws.function_arns import region_in
from engine.config import AwsSettings, DeliverySettings

SERVICE = "lambda"
_KEEPALIVE_IDLE_S = 60
"""NAT gateways and load balancers drop a connection that is silent for 350 s; a function may run for 900 s."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a signed request needs; ``credentials`` renew themselves."""

    region: str
    endpoint: str
    credentials: Any
    verify: str | bool
    proxies: dict[str, str]


_lock = threading.Lock()
_known: dict[tuple[int, AwsSettings, str], Access] = {}


def region_of(function: str, aws: AwsSettings) -> str:
    """Return the region to ask: the one in the function's ARN, else the setting; "" leaves it to AWS's own chain."""
    return region_in(function) or aws.region


def access_to(function: str, aws: AwsSettings) -> Access:
    """Return the access to a function's region; raise `BotoCoreError` or ValueError if there is none."""
    region = region_of(function, aws)
    key = (os.getpid(), aws, region)
    with _lock:
        access = _known.get(key)
        if access is None:
            access = _known[key] = _make_access(region, aws)
        return access


def _make_access(region: str, aws: AwsSettings) -> Access:
    session = aws_session()
    client = make_client(session, region, aws)
    return access_by(session, client.meta.region_name, client.meta.endpoint_url)


def access_by(session: Any, region: str, endpoint: str) -> Access:
    """Return the access to an endpoint by a session's credentials and certificates; raise `BotoCoreError`."""
    credentials = session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    bundle = session._session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    return Access(
        region=region,
        endpoint=endpoint.rstrip("/"),
        credentials=credentials,
        verify=bundle or True,
        proxies=get_environ_proxies(endpoint),
    )


def make_client(session: Any, region: str, aws: AwsSettings, **options: Any) -> Any:
    """Return boto3's Lambda client, which knows where the endpoint is; one attempt a call: the engine retries."""
    return session.client(
        SERVICE,
        region_name=region or None,
        endpoint_url=aws.lambda_endpoint_url or None,
        config=Config(retries={"total_max_attempts": 1}, **options),
    )


def http_session(access: Access, delivery: DeliverySettings, connections_max: int) -> Any:
    """Return botocore's own HTTP session: its proxies, its certificates, connections that stay open."""
    # Without TCP_NODELAY the body, sent after the headers, waits 40 ms for the other side's delayed acknowledgement.
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if hasattr(socket, "TCP_KEEPIDLE"):
        options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S))
    return URLLib3Session(
        verify=access.verify,
        proxies=access.proxies,
        timeout=(delivery.connect_timeout_ms / 1_000, delivery.invoke_timeout_ms / 1_000),
        max_pool_connections=connections_max,
        socket_options=options,
    )
