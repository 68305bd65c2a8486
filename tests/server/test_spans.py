"""Spans: what a trace of one request shows, and what happens where they cannot be made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from bursar.server.observe import traces
from bursar.server.observe.spans import Spans, TraceIds
from bursar.server.settings import SettingError, load
from server.world import started

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(BaseHTTPRequestHandler):
    """Takes spans as a collector does, over OTLP/HTTP."""

    received: ClassVar[list[ExportTraceServiceRequest]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def collecting() -> Iterator[str]:
    """Run a collector and give its address."""
    Collector.received.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    kinds = ((each.key, each.value) for each in span.attributes)
    return {key: getattr(value, value.WhichOneof("value")) for key, value in kinds}


def test_a_collector_gets_the_whole_request(tmp_path: Path) -> None:
    """From a real server: the request under its caller's span, the transaction under it."""
    with collecting() as url:
        with started(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url) as server:
            tenant = server.tenant().budget(100)
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            body = tenant.ask(10)
            answers = [
                tenant.call("POST", "/v1/reservations", body, headers=headers),
                tenant.reserve(1_000),
                server.call("GET", "/v1/balances"),
            ]
        sent = [
            (span, {each.key: each.value.string_value for each in group.resource.attributes})
            for request in Collector.received
            for group in request.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]
    assert {resource["service.name"] for _, resource in sent} == {"bursar"}
    by_request = {attributes(span)["bursar.request_id"]: span for span, _ in sent if span.kind == 2}
    held, denied, stranger = (by_request[one.headers["x-request-id"]] for one in answers)
    assert (held.trace_id.hex(), held.parent_span_id.hex()) == (TRACE, PARENT)
    assert held.name == "POST /v1/reservations"
    found = attributes(held)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/reservations",
        "http.response.status_code": 200,
        "url.path": "/v1/reservations",
        "url.scheme": "http",
        "bursar.operation": "createReservation",
        "bursar.tenant": tenant.id,
        "bursar.decision": "ALLOW",
        "bursar.reason": "OK",
    }
    assert {name: found.get(name) for name in expected} == expected
    children = [span for span, _ in sent if span.parent_span_id == held.span_id]
    assert [child.name for child in children] == ["ledger transaction"]
    inside = attributes(children[0])
    assert inside["bursar.batch.commands"] >= 1
    taken_s = (children[0].end_time_unix_nano - children[0].start_time_unix_nano) / 1e9
    assert inside["bursar.transaction.duration"] == pytest.approx(taken_s)
    assert children[0].end_time_unix_nano <= held.end_time_unix_nano
    assert denied.trace_id.hex() == answers[1].headers["x-cycles-trace-id"]
    assert denied.parent_span_id == b""
    assert attributes(denied)["bursar.decision"] == "DENY"
    assert attributes(denied)["bursar.error_code"] == "BUDGET_EXCEEDED"
    assert denied.status.code == 0, "a denial is an answer, not an error"
    assert attributes(stranger)["bursar.error_code"] == "UNAUTHORIZED"
    assert "bursar.tenant" not in attributes(stranger)


def test_a_dead_collector_stops_nobody(tmp_path: Path) -> None:
    """Requests are answered, and SIGTERM ends the server in time."""
    nobody = "http://127.0.0.1:1"
    with started(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=nobody) as server:
        server.tenant().budget(10).hold(1)


def test_spans_on_the_console_leave_standard_output_alone(tmp_path: Path) -> None:
    with started(tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="mine") as server:
        answer = server.call("GET", "/v1/balances")
    log = (tmp_path / "server.log").read_text("utf-8")
    assert f"0x{answer.headers['x-cycles-trace-id']}" in log
    assert '"service.name": "mine"' in log


class World:
    """Spans in memory, and requests without a server."""

    def __init__(self) -> None:
        ids = TraceIds()
        provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
        self.memory = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.spans = Spans(provider, ids)

    def request(self, status: int, method: str = "GET", **headers: str) -> ReadableSpan | None:
        raw = {name.encode(): value.encode() for name, value in headers.items()}
        known = {"headers": raw, "request_id": "r1", "trace_id": TRACE}
        scope = {"method": method, "path": "/x", "bursar": known}
        self.memory.clear()
        self.spans.began(scope)
        self.spans.ended(scope, status, 0.1)
        return next(iter(self.memory.get_finished_spans()), None)


def test_a_request_that_failed_shows_as_an_error() -> None:
    world = World()
    for status, error in ((500, "500"), (0, "cancelled")):
        span = world.request(status)
        assert span is not None
        assert span.attributes is not None
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == error
        assert (span.kind, span.name) == (SpanKind.SERVER, "GET")
    fine = world.request(404, "BREW")
    assert fine is not None
    assert fine.attributes is not None
    assert fine.status.status_code is StatusCode.UNSET
    assert (fine.name, fine.attributes["http.request.method"]) == ("HTTP", "_OTHER")


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_caller_decides_whether_its_trace_is_sampled(flags: str) -> None:
    span = World().request(200, traceparent=f"00-{TRACE}-{PARENT}-{flags}", tracestate="a=b")
    assert (span is not None) == (flags == "01")
    if span is not None:
        assert span.context.trace_state.get("a") == "b"


def test_a_malformed_parent_is_none() -> None:
    span = World().request(200, traceparent=f"00-{TRACE}-{'0' * 16}-01")
    assert span is not None
    assert span.parent is None
    assert span.context.trace_id == int(TRACE, 16)


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_SERVICE_NAME": "x"}, False),
        ("auto", ENDPOINT, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ("auto", {"OTEL_TRACES_EXPORTER": "console"}, True),
        ("auto", ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        ("auto", ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, False),
        ("on", {}, True),
        ("off", ENDPOINT, False),
    ],
)
def test_who_asks_for_spans(setting: str, environment: dict[str, str], expected: bool) -> None:
    assert traces.asked(setting, environment) is expected


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(SettingError, match=r"traces: must be one of auto, on, off, got 'yes'"):
        load({"BURSAR_TRACES": "yes"}, {})


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("OTEL_TRACES_EXPORTER", "pigeon", "exporter 'pigeon' is not installed"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "must be one of http/protobuf, grpc"),
    ],
)
def test_what_cannot_be_had_is_said(variable: str, value: str, says: str) -> None:
    """Insisting on it refuses the start; the environment alone does without."""
    with pytest.raises(SettingError, match=re.escape(says)):
        traces.obtain("on", {variable: value})
    assert traces.obtain("auto", ENDPOINT | {variable: value}) is None


WITHOUT = "import sys; sys.modules['opentelemetry'] = None; from bursar.cli.__main__ import main; "


def test_without_the_extra(tmp_path: Path) -> None:
    """`on` is refused with how to install it, in one line."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{WITHOUT}sys.argv[1:] = ['serve', '--port', '0']; main()"],
        cwd=tmp_path,
        env=os.environ | {"BURSAR_TRACES": "on"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "pip install 'bursar[otel]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_nothing_is_imported_for_nobody() -> None:
    """A server without spans never loads OpenTelemetry."""
    program = (
        "import sys; from bursar.server import run; from bursar.server.observe import traces; "
        "assert traces.obtain('auto', {}) is None; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
