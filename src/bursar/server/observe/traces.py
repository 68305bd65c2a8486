"""Whether spans are made, and by what: read from the settings and the OTEL_* environment.

The rule that lives here: nothing of OpenTelemetry is imported before somebody asks for
spans, so that a server without them pays nothing. Whoever asks and cannot have them is told.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import structlog

from bursar.server.settings import TRACES_OFF, TRACES_ON, SettingError

if TYPE_CHECKING:
    from bursar.server.observe.spans import Spans

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
INSTALL = "install it with: pip install 'bursar[otel]'"
log = structlog.get_logger("bursar.traces")


class CannotTrace(Exception):
    """Spans cannot be made as asked; the message says why and what helps."""


def obtain(setting: str, environment: Mapping[str, str]) -> Spans | None:
    """Return what makes spans, or None where nobody wants them or they cannot be had.

    Raises:
        SettingError: the setting insists on them, and they cannot be had.
    """
    if not asked(setting, environment):
        return None
    try:
        return _load(environment)
    except CannotTrace as error:
        if setting == TRACES_ON:
            raise SettingError(f"traces: {error}") from error
        log.warning("no spans are made", reason=str(error))
        return None


def asked(setting: str, environment: Mapping[str, str]) -> bool:
    """Return whether the setting or, where that leaves it open, the environment asks for spans."""
    if setting == TRACES_OFF or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if setting == TRACES_ON:
        return True
    exporter = environment.get(EXPORTER, "").strip()
    if exporter:
        return exporter != "none"
    return any(environment.get(name) for name in ENDPOINTS)


def _load(environment: Mapping[str, str]) -> Spans:
    try:
        exporting = importlib.import_module("bursar.server.observe.exporting")
    except ImportError as error:
        raise CannotTrace(f"OpenTelemetry is not installed ({error.name}); {INSTALL}") from error
    spans: Spans = exporting.spans(environment)
    return spans
