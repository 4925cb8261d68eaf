"""What goes wrong in AWS's own chain of credentials: one line with its remedy, and no lost call."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine.aws import access
from engine.config import AwsSettings, DeliverySettings, RouteSettings
from engine.delivery.failures.dead_letter import DeadLetter
from engine.delivery.failures.places import failure_sink
from engine.delivery.targets.check import check_functions
from engine.delivery.targets.make import check_places, make_target, parse_target_arn
from engine.destination.base import DestinationError, parse_destination
from engine.destination.dynamodb import DynamoDb
from engine.model import Failure
from tests.faulty_service import Script, answers, is_silent, nobody, serving
from tests.lambda_service import InTheLoop

STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/carts"
STS_SAYS_NO = (
    b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
    b"<Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>"
    b"</ErrorResponse>"
)
PAYLOAD = b'{"records":[{"record_id":"0","id":"a","version":7}]}'


class Chain:
    """Surroundings in which the chain fails in some way, and what is said of it."""

    def __init__(self, words: str, hint: str, *, passes: bool = False, sts: Script | None = None, **files: str) -> None:
        self.words, self.hint, self.passes, self.sts, self.files = words, hint, passes, sts, files

    def environment(self, folder: Path, stack: ExitStack) -> dict[str, str]:
        port = stack.enter_context(nobody() if self.sts is None else serving(self.sts))
        for name, content in self.files.items():
            (folder / name).write_text(content)
        set_up = {
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{port}",
            "HOME": str(folder),
        }
        if "config" not in self.files:
            set_up["AWS_ROLE_ARN"] = "arn:aws:iam::123456789012:role/engine"
            set_up["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(folder / "token")
        return set_up


CHAINS = {
    "STS refuses": Chain(
        "AssumeRoleWithWebIdentity",
        "trust policy",
        sts=answers(403, STS_SAYS_NO, "Content-Type: text/xml"),
        token="token",
    ),
    "STS is out of order": Chain("503", "retried", passes=True, sts=answers(503, b"<html>"), token="token"),
    "STS is down": Chain("127.0.0.1", "the network path to STS", passes=True, token="token"),
    "STS is silent": Chain("127.0.0.1", "the network path to STS", passes=True, sts=is_silent, token="token"),
    "no token file": Chain("No such file", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    "SSO expired": Chain(
        "",
        "aws sso login",
        config="[default]\nsso_session = s\nsso_account_id = 123456789012\nsso_role_name = engine\n"
        "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.invalid/start\n",
    ),
    "a process that prints no JSON": Chain(
        "", "AWS's own settings", config="[default]\ncredential_process = echo hello\n"
    ),
    "no process": Chain("No such file", "credential_process", config="[default]\ncredential_process = /nowhere/cat\n"),
    "half of a pair": Chain("secret", "AWS_SECRET_ACCESS_KEY", config="[default]\naws_access_key_id = AKID\n"),
}


@pytest.fixture(params=CHAINS, ids=lambda name: str(name))
def chain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Chain]:
    one = CHAINS[request.param]
    monkeypatch.setattr(access, "_known", {})
    monkeypatch.setattr("engine.aws.credentials.READ_TIMEOUT_S", 0.3)
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    with ExitStack() as stack:
        for name, value in one.environment(tmp_path, stack).items():
            monkeypatch.setenv(name, value)
        yield one


@pytest.mark.parametrize("is_looped", [True, False], ids=["in the loop", "in a thread"])
def test_without_credentials_nothing_was_sent(chain: Chain, is_looped: bool) -> None:
    """Functions and streams say why there are no credentials and how to mend it; nothing of theirs is lost."""
    for function in ("carts", STREAM):
        target = make_target(RouteSettings("r", function), AwsSettings("us-east-1"), DeliverySettings())
        outcome = (InTheLoop(target) if is_looped else target).invoke(PAYLOAD)
        target.close()
        assert (outcome.failure, outcome.is_lost) == (Failure.REFUSED, False), outcome
        assert chain.words in outcome.reason
        assert chain.hint in outcome.reason
        assert "\n" not in outcome.reason


def test_what_is_looked_at_before_a_start_tells_it(chain: Chain) -> None:
    """Before a start each place says it in one line, and whether it passes."""
    place = parse_target_arn(STREAM)
    assert place
    problems = check_functions([("here", "carts")], AwsSettings("us-east-1"), DeliverySettings())
    problems += check_places([("there", place)], AwsSettings("us-east-1"), DeliverySettings())
    assert [problem.place for problem in problems] == ["here", "there"]
    for problem in problems:
        assert chain.words in problem.message
        assert chain.hint in problem.hint
        assert problem.passes is chain.passes


def test_destinations_and_dead_letters_tell_it(chain: Chain, tmp_path: Path) -> None:
    """A table that is compared, and a bucket for dead letters, say it too."""
    with pytest.raises(DestinationError) as caught:
        DynamoDb(parse_destination("dynamodb://carts"), "us-east-1").get([b"a"])
    assert chain.words in caught.value.message
    assert chain.hint in caught.value.hint
    route = RouteSettings("r", "carts", on_failure="arn:aws:s3:::failed")
    letter = DeadLetter(1, "r", "carts", "a", "hset", 1, 1, "why")
    problem = failure_sink(route, DeliverySettings(), AwsSettings("us-east-1")).write([letter])
    assert chain.words in problem
    assert chain.hint in problem


@pytest.mark.parametrize("arguments", [("check",), ("start",), ("redrive", "--from", "arn:aws:s3:::failed")])
@pytest.mark.parametrize("name", ["no token file", "STS refuses"])
def test_commands_say_it_in_a_line(tmp_path: Path, arguments: tuple[str, ...], name: str) -> None:
    """No command that needs credentials shows a traceback where it gets none."""
    (tmp_path / "engine.toml").write_text(
        '[redis]\nurl = "redis://127.0.0.1:1/0"\n'
        '[[routes]]\nname = "r"\nfunction = "carts"\non_failure = "arn:aws:s3:::failed"\n'
    )
    with ExitStack() as stack:
        environment = CHAINS[name].environment(tmp_path, stack)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            cwd=tmp_path,
            env={**kept, **environment, "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    told = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Traceback" not in told
    assert CHAINS[name].hint in told
    assert "Refreshing temporary credentials" not in told
