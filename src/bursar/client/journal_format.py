"""The format of a pending settlement on disk, shared with the other SDKs of the protocol.

The rule that lives here: names and bytes are computed, nothing is read or written. A record
is either understood completely or refused; what a later version added is carried over only
if it says it is still version 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import pbkdf2_hmac, sha256
from typing import Any, Literal

from bursar.client.validation import encode_body, path_segment
from bursar.vocabulary import AMOUNT_MAX

VERSION = 1
ROUNDS = 30_000
SUFFIX, CORRUPT, REJECTED, TEMPORARY = ".json", ".corrupt", ".rejected", ".tmp"

Mode = Literal["commit", "event"]


class UnreadableRecord(ValueError):
    """The bytes are not a record of this version."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose settlements a journal holds: one server, and one tenant or key.

    Only the fingerprint reaches the disk. With a tenant it survives a change of the key.
    """

    base_url: str
    fingerprint: str

    @classmethod
    def of(cls, base_url: str, api_key: str, tenant: str | None = None) -> Identity:
        """Return the identity of a configuration; computed once for each."""
        return cls(base_url, fingerprint_of(base_url, api_key, tenant))


@dataclass(frozen=True, slots=True)
class Record:
    """A settlement that must reach the server, whatever happens to this process.

    `mode` says which body is sent next. Both carry the same idempotency key for ever.
    `not_before_ms` is when the server allowed the next attempt, in wall-clock milliseconds.
    """

    reservation_id: str
    base_url: str
    mode: Mode
    commit_body: Mapping[str, Any] | None
    event_fallback_body: Mapping[str, Any] | None
    recorded_at_ms: int
    not_before_ms: int | None = None

    @property
    def body(self) -> Mapping[str, Any]:
        """Return the body that is sent next."""
        body = self.commit_body if self.mode == "commit" else self.event_fallback_body
        if body is None:
            raise UnreadableRecord(f"mode is {self.mode!r} but there is no body for it")
        return body

    @property
    def key(self) -> str:
        """Return the idempotency key of the settlement."""
        key = self.body.get("idempotency_key")
        if not isinstance(key, str) or not key:
            raise UnreadableRecord("the body has no idempotency_key, so it cannot be repeated")
        return key


@lru_cache(maxsize=64)
def fingerprint_of(base_url: str, api_key: str, tenant: str | None = None) -> str:
    """Return the name of an identity's directory: 16 hex digits that do not give the key away.

    A blank tenant is no tenant. The address is taken as it is written.
    """
    whose = f"tenant\n{tenant}" if tenant and tenant.strip() else f"key\n{api_key}"
    salt = f"runcycles-commit-journal\n{base_url}"
    return pbkdf2_hmac("sha256", whose.encode(), salt.encode(), ROUNDS).hex()[:16]


def file_name(reservation_id: str) -> str:
    """Return the name of a reservation's file: distinct ids never share one.

    Raises:
        UnicodeEncodeError: the id holds a lone surrogate, so it has no UTF-8.
    """
    return f"v2-{sha256(reservation_id.encode()).hexdigest()}{SUFFIX}"


def legacy_file_name(reservation_id: str) -> str:
    """Return the name that earlier clients gave the file; distinct ids may share it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", reservation_id) + SUFFIX


def encode_record(record: Record) -> bytes:
    """Return the bytes of a record.

    Raises:
        UnreadableRecord: it could not be read back, for instance without a key.
        TypeError: a body holds something that JSON cannot.
        ValueError: a body holds NaN, an infinity or itself.
    """
    members = {
        "version": VERSION,
        "reservation_id": record.reservation_id,
        "base_url": record.base_url,
        "mode": record.mode,
        "commit_body": _plain(record.commit_body),
        "event_fallback_body": _plain(record.event_fallback_body),
        "recorded_at_ms": record.recorded_at_ms,
        "not_before_ms": record.not_before_ms,
    }
    _checked(members)
    return json.dumps(members, allow_nan=False).encode("ascii")


def decode_record(data: bytes) -> Record:
    """Return the record in a file.

    Raises:
        UnreadableRecord: it is damaged, or of a version that this one does not know.
    """
    try:
        members = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise UnreadableRecord("it is not JSON") from None
    if not isinstance(members, dict):
        raise UnreadableRecord("it is not an object")
    return _checked(members)


def _plain(body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if body is None else dict(body)


def _checked(members: dict[str, Any]) -> Record:
    version = members.get("version")
    if type(version) is not int or version != VERSION:
        raise UnreadableRecord(f"version is {version!r}; this client reads version {VERSION}")
    mode = members.get("mode", "commit")
    if mode not in ("commit", "event"):
        raise UnreadableRecord(f"mode must be 'commit' or 'event', got {mode!r}")
    record = Record(
        reservation_id=_text(members, "reservation_id"),
        # Absent in the earliest files: such a record belongs to no server we could name.
        base_url=_text(members, "base_url") if "base_url" in members else "",
        mode=mode,
        commit_body=_body(members, "commit_body"),
        event_fallback_body=_body(members, "event_fallback_body"),
        recorded_at_ms=_moment(members, "recorded_at_ms", 0),
        not_before_ms=(
            None
            if members.get("not_before_ms") is None
            else _moment(members, "not_before_ms", None)
        ),
    )
    _ = record.key  # raises if what is sent next has no key
    _check_sendable(record)
    return record


def _check_sendable(record: Record) -> None:
    """Refuse a record of which no request can be made, such as one with half a character."""
    try:
        if record.mode == "commit":
            path_segment(record.reservation_id)
        for body in (record.commit_body, record.event_fallback_body):
            if body is not None:
                encode_body(body)
    except (TypeError, ValueError) as unfit:
        raise UnreadableRecord(str(unfit)) from None


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise UnreadableRecord(f"{name} must be a non-empty text, got {value!r}")
    return value


def _body(members: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = members.get(name)
    if value is not None and not isinstance(value, dict):
        raise UnreadableRecord(f"{name} must be an object, got a {type(value).__name__}")
    return value


def _moment(members: dict[str, Any], name: str, absent: int | None) -> int:
    value = members.get(name, absent)
    if type(value) is not int or not 0 <= value <= AMOUNT_MAX:
        raise UnreadableRecord(f"{name} must be milliseconds since 1970, got {value!r}")
    return value
