"""What the section [otlp] may say, and what it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import OtlpSettings, Settings
from engine.console.otlp import installed as extras
from engine.console.otlp.receiver import url_of
from engine.errors import ConfigError
from engine.settings.file import load_settings

ROUTE = '[[routes]]\nname = "carts"\nfunction = "dynamodb"\n'


def load(folder: Path, otlp: str) -> Settings:
    file = folder / "engine.toml"
    file.write_text(f"[otlp]\n{otlp}\n{ROUTE}")
    return load_settings(str(file), {"AWS_REGION": "us-east-1"}, {})


def test_nothing_is_sent_by_default() -> None:
    """Without a word in the settings there is nothing to send, and no package is looked for."""
    assert not OtlpSettings().is_on
    assert extras.examine_extras(Settings()) == []


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("127.0.0.1:4318", "not the base URL"),
        ("grpc://127.0.0.1:4317", "not the base URL"),
        ("http://", "not the base URL"),
        ("http://h:x", "not the base URL"),
        ("http://h:4318/?a=b", "not the base URL"),
        ("http://me:secret@h:4318", "holds credentials"),
    ],
)
def test_endpoints_that_are_none(tmp_path: Path, endpoint: str, said: str) -> None:
    """An endpoint that is no base URL is refused on one line, and a secret in it is not repeated."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f'endpoint = "{endpoint}"\nmetrics_interval_s = 5')
    (problem,) = caught.value.problems
    assert problem.place.endswith("otlp.endpoint")
    assert said in problem.message
    assert "secret" not in str(problem)


def test_an_endpoint_without_a_use(tmp_path: Path) -> None:
    """Whoever names a receiver and sends it nothing is told so."""
    with pytest.raises(ConfigError, match="has no effect"):
        load(tmp_path, 'endpoint = "http://127.0.0.1:4318"')


def test_where_signals_go() -> None:
    """Paths are added to the base URL; without one the SDK's own variables count."""
    assert url_of("https://h:4318/otlp/", "metrics") == "https://h:4318/otlp/v1/metrics"
    assert url_of("", "metrics") is None


def test_the_packages_are_missed_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the settings want OTLP and its packages are not there, one line says how to install them."""
    settings = Settings(otlp=OtlpSettings(metrics_interval_s=10))
    assert extras.examine_extras(settings) == []
    monkeypatch.setattr(extras, "OTLP_MODULES", ("opentelemetry.sdk", "no_such_package.otlp"))
    (problem,) = extras.examine_extras(settings)
    assert str(problem).startswith("otlp: the packages of OpenTelemetry are not installed (pip install")
    assert "ingest-engine[otlp]" in problem.hint
