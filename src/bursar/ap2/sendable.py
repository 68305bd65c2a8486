"""What a body said or raised, as something that certainly can be sent.

The rule that lives here: by now money may have moved, so nothing that a body attaches, says or
raises may cost the request that ends its payment. What no ledger takes becomes text, what is too
long is cut, and an object that cannot even be shown is named by its type.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

from bursar.wire.fields import FREE_DEPTH_MAX, FREE_INT_MAX, INT64_MIN

FIELDS_BYTES_MAX: Final = 64 * 1024
"""How long the attached fields may be as JSON: a quarter of what a server takes by default."""
NAME_CHARS_MAX: Final = 256
CUT: Final = "…"
ESCAPED_MAX: Final = 6
"""The most bytes that JSON needs for one character."""
FIRST: Final = "psp_ref"
"""The field that a dispute needs most: it is never left out for the sake of another."""
log = logging.getLogger("bursar.ap2")


def sendable_fields(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """Return fields that every ledger takes; what does not fit any more is cut or left out."""
    found: dict[str, Any] = {}
    left, lost = FIELDS_BYTES_MAX, 0
    for name in sorted(fields, key=lambda one: one != FIRST):
        key, value = sendable_text(name)[:NAME_CHARS_MAX], _sendable_or_text(fields[name])
        size = _size(key, value)
        if size > left:
            lost += 1
            room = (left - _size(key, CUT)) // ESCAPED_MAX
            if not isinstance(value, str) or room <= 0:
                continue
            value = value[:room] + CUT
            size = _size(key, value)
        found[key] = value
        left -= size
    if lost:
        log.warning(
            "AP2: %d receipt fields were cut or left out of the commit: as JSON, all of them "
            "together may be %d bytes",
            lost,
            FIELDS_BYTES_MAX,
        )
    return found


def sendable(value: Any, depth: int = 2) -> Any:
    """Return a value that every ledger takes as metadata: itself, if it is one."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _clean(str.__str__(value))
    if isinstance(value, int) and INT64_MIN <= value <= FREE_INT_MAX:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if depth <= FREE_DEPTH_MAX:
        if isinstance(value, Mapping):
            return {sendable_text(name): sendable(one, depth + 1) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [sendable(one, depth + 1) for one in value]
    return sendable_text(value)


def sendable_text(value: object) -> str:
    """Return how a value reads; of one that cannot be shown, what it is."""
    try:
        said = str.__str__(value) if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - it is somebody's `__str__`, and money depends on us
        said = f"<{type_name(value)} that cannot be shown>"
    return _clean(said)


def told(error: BaseException) -> str:
    """Return an exception as it is told in messages: its type, and what it says."""
    return f"{type_name(error)}: {sendable_text(error)}"


def type_name(value: object) -> str:
    """Return the name of a value's type, which a metaclass cannot make up."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def _sendable_or_text(value: Any) -> Any:
    try:
        return sendable(value)
    except Exception:  # noqa: BLE001 - a container that cannot be read
        return sendable_text(value)


def _clean(said: str) -> str:
    return said.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _size(name: str, value: Any) -> int:
    return len(json.dumps({name: value}, ensure_ascii=False).encode())
