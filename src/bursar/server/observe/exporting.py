"""Where spans go: the exporters that the standard OTEL_* variables name.

The rule that lives here: a collector that is slow or gone costs spans and nothing else. A
stopping server waits for it a second, and no longer. This module needs the extra `otel`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from bursar import __version__
from bursar.server.observe.spans import Spans, TraceIds
from bursar.server.observe.traces import EXPORTER, INSTALL, CannotTrace

GROUP = "opentelemetry_traces_exporter"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
FLUSH_WITHIN_S = 1.0


def spans(environment: Mapping[str, str]) -> Spans:
    """Return what makes spans and sends them where the environment says.

    Raises:
        CannotTrace: an exporter is not known, not installed, or cannot be set up.
    """
    names = [name.strip() for name in (environment.get(EXPORTER) or "otlp").split(",")]
    exporters = [_exporter(name, environment) for name in names]
    ids = TraceIds()
    try:
        provider = TracerProvider(resource=_resource(), id_generator=ids, shutdown_on_exit=False)
    except ValueError as error:  # a sampler's argument, a limit
        raise CannotTrace(f"an OTEL_ variable cannot be used: {error}") from error
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return Spans(provider, ids, lambda: _flush(provider))


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter:
    if name == "console":  # standard output belongs to what the command says
        return ConsoleSpanExporter(out=sys.stderr)
    wanted = name
    if name == "otlp":
        given = next((environment[each] for each in PROTOCOLS if environment.get(each)), None)
        protocol = (given or "http/protobuf").strip()
        if protocol not in OTLP:
            known = ", ".join(OTLP)
            raise CannotTrace(f"{PROTOCOLS[1]}: must be one of {known}, got {protocol!r}")
        wanted = OTLP[protocol]
    found = entry_points(group=GROUP, name=wanted)
    if not found:
        raise CannotTrace(f"{EXPORTER}: the exporter {wanted!r} is not installed; {INSTALL}")
    try:
        made: SpanExporter = next(iter(found)).load()()
    except Exception as error:
        raise CannotTrace(f"{EXPORTER}: {wanted!r} cannot be set up: {error}") from error
    return made


def _resource() -> Resource:
    """Return who tells: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, or the server's own."""
    found = Resource.create()
    own = {SERVICE_VERSION: found.attributes.get(SERVICE_VERSION, __version__)}
    if str(found.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        own[SERVICE_NAME] = "bursar"
    return found.merge(Resource(own))


def _flush(provider: TracerProvider) -> None:
    """Send what is left; a thread of its own, since nothing bounds the time that this takes."""
    last = threading.Thread(target=provider.shutdown, name="bursar-spans", daemon=True)
    last.start()
    last.join(FLUSH_WITHIN_S)
