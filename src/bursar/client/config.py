"""Settings of the SDK, from arguments or from the environment.

The rule that lives here: a setting that cannot work is refused when it is made, with the
name, the limit and the fix; and the API key is never shown.
"""

from __future__ import annotations

import os
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING

from bursar.client.validation import header_value

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from bursar.client.heartbeat_failure import HeartbeatFailure

SECONDS_MAX = 86_400.0
SPELLED_BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
HEARTBEAT_POLICIES = ("warn", "fail_on_finalize", "cancel")
ON_COMMIT_FAILURE = ("journal", "reset")

# Field -> (least, most) value. A field whose least value is an `int` takes whole numbers only.
_RANGES: dict[str, tuple[float, float]] = {
    "connect_timeout": (0.001, SECONDS_MAX),
    "read_timeout": (0.001, SECONDS_MAX),
    "retry_max_attempts": (0, 1_000),
    "retry_initial_delay": (0.0, SECONDS_MAX),
    "retry_multiplier": (0.0, 1_000.0),
    "retry_max_delay": (0.0, SECONDS_MAX),
    "retry_flush_timeout": (0.0, SECONDS_MAX),
    "retry_sweep_interval": (0.0, SECONDS_MAX),
}
_CHOICES = {"heartbeat_policy": HEARTBEAT_POLICIES, "on_commit_failure": ON_COMMIT_FAILURE}
_SWITCHES = frozenset({"retry_enabled", "journal_enabled"})
_TEXTS = frozenset({"tenant", "workspace", "app", "workflow", "agent", "toolset", "journal_dir"})


@dataclass
class CyclesConfig:
    """How to reach the server, for whom to spend, and how patient to be.

    Durations are in seconds. The six levels of the subject are defaults for calls that do not
    name their own. `retry_flush_timeout` bounds what the end of the process waits for, and
    `retry_sweep_interval` is how often journaled commits are tried again in the background;
    0 turns either off. Every assignment is checked, at construction and later.

    Raises:
        ValueError: a value is out of range or of the wrong type.
    """

    base_url: str
    api_key: str = field(repr=False)
    tenant: str | None = None
    workspace: str | None = None
    app: str | None = None
    workflow: str | None = None
    agent: str | None = None
    toolset: str | None = None
    connect_timeout: float = 2.0
    read_timeout: float = 5.0
    retry_enabled: bool = True
    retry_max_attempts: int = 5
    retry_initial_delay: float = 0.5
    retry_multiplier: float = 2.0
    retry_max_delay: float = 30.0
    retry_flush_timeout: float = 10.0
    journal_enabled: bool = True
    journal_dir: str | None = None
    heartbeat_policy: str = "warn"
    on_heartbeat_failure: Callable[[HeartbeatFailure], None] | None = None
    on_commit_failure: str = "journal"
    retry_sweep_interval: float = 60.0

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, _checked(name, value, name))

    @classmethod
    def from_env(cls, prefix: str = "CYCLES_") -> Self:
        """Return the settings in the environment: `{prefix}BASE_URL` and so on.

        A switch reads 1/0, true/false, yes/no and on/off in any case. A number or a switch that
        is set to nothing counts as not set.

        Raises:
            ValueError: a required variable is missing, or a variable cannot be read; the
                message names it, and never shows the key.
        """
        values: dict[str, object] = {}
        for setting in fields(cls):
            if setting.name == "on_heartbeat_failure":
                continue  # a function has no spelling
            variable = prefix + setting.name.upper()
            text = os.environ.get(variable)
            if setting.default is MISSING and not text:
                raise ValueError(f"{variable} environment variable is required")
            if text is not None and (text.strip() or setting.name in _TEXTS):
                values[setting.name] = _checked(
                    setting.name, _read(setting.name, text, variable), variable
                )
        return cls(**values)  # type: ignore[arg-type]  # every value was checked above


def _read(name: str, text: str, variable: str) -> object:
    """Return the text of an environment variable as the type of its field."""
    if name in _SWITCHES:
        try:
            return SPELLED_BOOLEANS[text.strip().lower()]
        except KeyError:
            spellings = ", ".join(SPELLED_BOOLEANS)
            raise ValueError(f"{variable} must be one of {spellings}; got {text!r}") from None
    if name in _RANGES:
        whole = isinstance(_RANGES[name][0], int)
        try:
            return int(text) if whole else float(text)
        except ValueError:
            kind = "a whole number such as 5" if whole else "a number such as 2.5"
            raise ValueError(f"{variable} must be {kind}; got {text!r}") from None
    return text.strip() if name in _CHOICES else text


def _checked(name: str, value: object, shown: str) -> object:
    """Return `value` if the field `name` may hold it; `shown` is what a message calls it."""
    if name in _RANGES:
        _check_number(value, *_RANGES[name], shown)
    elif name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{shown} must be one of {', '.join(_CHOICES[name])}; got {value!r}")
    elif name in _SWITCHES and not isinstance(value, bool):
        raise ValueError(f"{shown} must be True or False; got {value!r}")
    elif name in _TEXTS:
        if name == "journal_dir" and isinstance(value, os.PathLike):
            return os.fspath(value)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{shown} must be text or None; got {value!r}")
    elif name == "base_url":
        _check_base_url(value, shown)
    elif name == "api_key":
        _check_api_key(value, shown)
    elif name == "on_heartbeat_failure" and not (value is None or callable(value)):
        raise ValueError(f"{shown} must be a function of one argument or None; got {value!r}")
    return value


def _check_number(value: object, least: float, most: float, shown: str) -> None:
    whole = isinstance(least, int)
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{shown} must be {kind} between {least:g} and {most:g}; got {value!r}")


def _check_base_url(value: object, shown: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{shown} must be text such as http://localhost:7878; got {value!r}")
    scheme, _, rest = value.partition("://")
    if not (scheme and rest) or any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError(
            f"{shown} must be an absolute URL such as http://localhost:7878, without spaces or"
            f" control characters; got {value!r}"
        )


def _check_api_key(value: object, shown: str) -> None:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{shown} must be a non-empty text; pass the key of your tenant")
    header_value(value, shown, secret=True)
