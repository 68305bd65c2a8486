"""Every setting of the server: its name, type, default, and what it is for.

The rule that lives here: a setting exists if and only if it is in `SETTINGS`. The command
line, the environment and the documentation all read this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bursar.server.payment_settings import PAYMENT_SETTINGS, check_payments
from bursar.server.setting import Setting as Setting
from bursar.server.setting import SettingError as SettingError

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "store",
        "BURSAR_STORE",
        str,
        "sqlite:///bursar.db",
        "Where the ledger lives: sqlite:///FILE, relative to the current folder, or "
        "sqlite:////absolute/FILE.",
    ),
    Setting("host", "BURSAR_HOST", str, "127.0.0.1", "Address to listen on."),
    Setting("port", "BURSAR_PORT", int, 7878, "Port to listen on; 0 takes a free one.", 0, 65_535),
    Setting(
        "admin_key",
        "BURSAR_ADMIN_KEY",
        str,
        "",
        "The operator's key (header X-Admin-API-Key), at least 16 characters. Generated once "
        "and kept beside the store where it is not given.",
    ),
    Setting(
        "body_bytes_max",
        "BURSAR_BODY_BYTES_MAX",
        int,
        262_144,
        "Largest request body in bytes; a larger one is refused with 413.",
        1_024,
    ),
    Setting(
        "header_timeout_s",
        "BURSAR_HEADER_TIMEOUT_S",
        int,
        10,
        "Seconds a connection may take to send a request's headers before it is closed.",
        1,
    ),
    Setting(
        "body_timeout_s",
        "BURSAR_BODY_TIMEOUT_S",
        int,
        10,
        "Seconds a request may take to send its body before it is refused.",
        1,
    ),
    Setting(
        "keep_alive_s",
        "BURSAR_KEEP_ALIVE_S",
        int,
        75,
        "Seconds an idle connection is kept open.",
        1,
    ),
    Setting(
        "stop_timeout_s",
        "BURSAR_STOP_TIMEOUT_S",
        int,
        8,
        "Seconds that requests in flight are given to finish after SIGTERM; at most 8, so that "
        "the server is gone within ten.",
        1,
        8,
    ),
    Setting(
        "connections_max",
        "BURSAR_CONNECTIONS_MAX",
        int,
        4_096,
        "Most connections at once; one more is closed.",
        1,
    ),
    Setting(
        "queue_max",
        "BURSAR_QUEUE_MAX",
        int,
        10_000,
        "Most commands waiting for the writer; one more is refused with 429.",
        1,
    ),
    Setting(
        "sweep_interval_ms",
        "BURSAR_SWEEP_INTERVAL_MS",
        int,
        1_000,
        "Milliseconds between two expiry sweeps, and between two looks for budgets whose period is "
        "over; at most 5000.",
        10,
        5_000,
    ),
    Setting(
        "key_cache_ms",
        "BURSAR_KEY_CACHE_MS",
        int,
        5_000,
        "Milliseconds for which a checked API key is trusted without asking the store again; "
        "a key revoked through this server is forgotten at once.",
        0,
    ),
    Setting(
        "auth_failures_per_minute",
        "BURSAR_AUTH_FAILURES_PER_MINUTE",
        int,
        300,
        "Requests without a valid credential that one address may send in a minute before it is "
        "answered 429; 0 sets no limit.",
        0,
    ),
    Setting(
        "audit_days",
        "BURSAR_AUDIT_DAYS",
        int,
        400,
        "Days for which refused requests stay in the audit log; 0 keeps them for ever.",
        0,
    ),
    Setting(
        "audit_stranger_days",
        "BURSAR_AUDIT_STRANGER_DAYS",
        int,
        30,
        "Days for which refused requests without a valid credential stay in the audit log; 0 "
        "keeps them for ever.",
        0,
    ),
    Setting(
        "log_level",
        "BURSAR_LOG_LEVEL",
        str,
        "info",
        "Least important log line to write: debug (each request), info, warning or error.",
    ),
    Setting(
        "metrics_key",
        "BURSAR_METRICS_KEY",
        str,
        "",
        "Key that opens /metrics and nothing else, at least 16 characters, sent as "
        "`Authorization: Bearer KEY`; `open` lets everybody read it. The admin key always does.",
    ),
    Setting(
        "metrics_tenants_max",
        "BURSAR_METRICS_TENANTS_MAX",
        int,
        200,
        "Most tenants that metrics tell apart, the first to come; the others count as OTHER. "
        "0 leaves the tenant label out.",
        0,
        10_000,
    ),
    Setting(
        "traces",
        "BURSAR_TRACES",
        str,
        "auto",
        "Whether OpenTelemetry spans are made (extra `otel`): `auto` where the OTEL_* environment "
        "names an exporter or an endpoint, `on` always, and without the extra the server does not "
        "start, or `off`.",
    ),
    *PAYMENT_SETTINGS,
)

LOG_LEVELS = ("debug", "info", "warning", "error")
ADMIN_KEY_LENGTH_MIN = 16
METRICS_OPEN = "open"
TRACES_ON, TRACES_OFF = "on", "off"
TRACES = ("auto", TRACES_ON, TRACES_OFF)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one server, checked. Field meanings are in `SETTINGS`."""

    store: str
    host: str
    port: int
    admin_key: str
    body_bytes_max: int
    header_timeout_s: int
    body_timeout_s: int
    keep_alive_s: int
    stop_timeout_s: int
    connections_max: int
    queue_max: int
    sweep_interval_ms: int
    key_cache_ms: int
    auth_failures_per_minute: int
    audit_days: int
    audit_stranger_days: int
    log_level: str
    metrics_key: str
    metrics_tenants_max: int
    traces: str
    payments_rpc: str
    payments_facilitators: str
    payments_facilitator_headers: str = field(repr=False)
    payments_facilitator_headers_file: str
    payments_finality: str
    payments_webhook: str
    payments_webhook_secret: str = field(repr=False)
    payments_webhook_secret_file: str

    @property
    def store_path(self) -> Path:
        """The file of a `sqlite:///` store."""
        return Path(self.store.removeprefix("sqlite:///"))


def load(environment: Mapping[str, str], overrides: Mapping[str, Any]) -> Settings:
    """Return settings from defaults, the environment, and overrides (the command line).

    Args:
        environment: environment variables; unset or empty ones mean the default.
        overrides: values by setting name; None means not given.

    Raises:
        SettingError: a value that cannot be used.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        given = overrides.get(setting.name)
        source = setting.name
        if given is None:
            given, source = environment.get(setting.env) or None, setting.env
        values[setting.name] = setting.default if given is None else _read(setting, given, source)
    settings = Settings(**values)
    _check(settings)
    return settings


def is_header_text(text: str) -> bool:
    """Return whether every client can send `text` in a header, and it arrives unchanged."""
    return text.isascii() and text.isprintable() and text == text.strip()


def _read(setting: Setting, given: Any, source: str) -> Any:
    if setting.type is not int:
        return str(given)
    try:
        number = int(given)
    except ValueError:
        raise SettingError(f"{source}: must be a whole number, got {given!r}") from None
    if setting.minimum is not None and number < setting.minimum:
        raise SettingError(f"{source}: must be at least {setting.minimum}, got {number}")
    if setting.maximum is not None and number > setting.maximum:
        raise SettingError(f"{source}: must be at most {setting.maximum}, got {number}")
    return number


def _check(settings: Settings) -> None:
    if settings.store == "sqlite:///:memory:":
        raise SettingError(
            "store: a ledger in memory would be gone with the server; name a file, for example "
            "sqlite:///bursar.db"
        )
    if not settings.store.startswith("sqlite:///") or not settings.store_path.name:
        raise SettingError(
            f"store: must be sqlite:///FILE, got {settings.store!r}; for example "
            "sqlite:///bursar.db"
        )
    if settings.log_level not in LOG_LEVELS:
        raise SettingError(
            f"log_level: must be one of {', '.join(LOG_LEVELS)}, got {settings.log_level!r}"
        )
    if settings.traces not in TRACES:
        raise SettingError(f"traces: must be one of {', '.join(TRACES)}, got {settings.traces!r}")
    check_payments(settings)
    _check_key("admin_key", settings.admin_key)
    if settings.metrics_key != METRICS_OPEN:
        _check_key("metrics_key", settings.metrics_key)


def _check_key(name: str, key: str) -> None:
    if not is_header_text(key):
        raise SettingError(
            f"{name}: must be printable ASCII without spaces around it, since it travels in a "
            "header"
        )
    if key and len(key) < ADMIN_KEY_LENGTH_MIN:
        raise SettingError(
            f"{name}: must have at least {ADMIN_KEY_LENGTH_MIN} characters, got {len(key)}"
        )
