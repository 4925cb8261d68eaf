"""The example of docs/write-a-function.md goes on with a trace, under OpenTelemetry's own SDK."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PAGE = Path(__file__).parents[2] / "docs" / "write-a-function.md"


def test_the_example_goes_on_with_the_trace(monkeypatch: Any) -> None:
    """A traced record's commit is a child of the engine's span, within its trace; others have no span."""
    (code,) = re.findall(r"```python\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    committed: list[str] = []
    module: dict[str, Any] = {"commit": lambda record: committed.append(record["id"])}
    exec(code, module)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    module["handler"]({"records": [{"id": "a"}, {"id": "b", "traceparent": parent}]}, None)
    assert committed == ["a", "b"]
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
