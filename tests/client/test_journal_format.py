"""The shared format, held against the official package byte by byte."""

import json
from pathlib import Path
from typing import Any

import pytest
import runcycles.journal as official

from bursar.client import journal_format as ours
from bursar.client.journal_format import Identity, Record, UnreadableRecord

BODY = {"idempotency_key": "key-1", "actual": {"unit": "TOKENS", "amount": 5}}
RAW: dict[str, Any] = {
    "version": 1,
    "reservation_id": "rsv_1",
    "base_url": "http://h",
    "mode": "commit",
    "commit_body": BODY,
    "event_fallback_body": None,
    "recorded_at_ms": 5,
    "not_before_ms": None,
}
LEFT_OUT = object()


def record(**values: Any) -> Record:
    given = {name: RAW[name] for name in RAW if name != "version"}
    return Record(**{**given, **values})


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (("http://localhost", "test-key"), "68c905017df7dbfc"),
        (("http://localhost", "test-key", ""), "68c905017df7dbfc"),
        (("http://localhost", "test-key", " \t"), "68c905017df7dbfc"),
        (("http://localhost", "any", "acme"), "8baba538fb970da4"),
        (("http://localhost", "other", "acme"), "8baba538fb970da4"),
        (("http://localhost", "any", " acme "), None),
        (("http://localhost/", "test-key"), None),
        (("http://höst", "schlüssel"), None),
    ],
)
def test_fingerprints(identity: tuple[str, ...], expected: str | None) -> None:
    """Directories are those of the other SDKs; a tenant outlives its keys."""
    made = ours.fingerprint_of(*identity)
    assert made == official.auth_fingerprint(*identity)
    assert expected in (None, made)
    assert Identity.of(*identity) == Identity(identity[0], made)


def test_a_fingerprint_is_computed_once() -> None:
    """It costs milliseconds on purpose, so a second client with the same key does not pay."""
    ours.fingerprint_of.cache_clear()
    for _ in range(3):
        Identity.of("http://once", "key", "acme")
    assert ours.fingerprint_of.cache_info().misses == 1


@pytest.mark.parametrize(
    ("reservation_id", "digest"),
    [
        ("rsv_abc-123", "fe159e4dab8f7a05b609a0810be4800a22f3b08fc55a2762d2cded54d1484ec9"),
        ("rsv/../etc", "08bf4457fdfa1fb11d02fb7f030f05c745a38058462cd1d158c40e644310d1de"),
        ("r🚀", "34c5b33347a139e63c81ea72943cc15dd4c2087dc1eaa756a78f3c49974e0b87"),
    ],
)
def test_file_names(reservation_id: str, digest: str) -> None:
    """An id of any characters has a name of its own, the same in every SDK."""
    assert f"v2-{digest}.json" == ours.file_name(reservation_id)
    assert official._safe_filename(reservation_id) == ours.file_name(reservation_id)
    assert official._legacy_filename(reservation_id) == ours.legacy_file_name(reservation_id)


@pytest.mark.parametrize(
    "made",
    [
        record(),
        record(not_before_ms=2**63 - 1),
        record(mode="event", event_fallback_body={**BODY, "metadata": {"é": [None, 1.5]}}),
        record(mode="event", commit_body=None, event_fallback_body=BODY),
        record(reservation_id="r🚀"),
    ],
)
def test_records_survive_the_disk(made: Record) -> None:
    """What is written is read back equal, and it is the official file, key by key."""
    data = ours.encode_record(made)
    assert made == ours.decode_record(data)
    assert list(json.loads(data)) == list(RAW)


CHANGES: list[tuple[dict[str, Any], bool]] = [
    *(({"version": version}, False) for version in (2, True, 1.0, "1", None, LEFT_OUT)),
    *(({"reservation_id": value}, False) for value in ("", 5, None, LEFT_OUT)),
    ({"base_url": None}, False),
    ({"mode": LEFT_OUT}, True),
    *(({"mode": mode}, False) for mode in (None, "x", [])),
    *(({"commit_body": body}, False) for body in (LEFT_OUT, None, [], "x")),
    ({"mode": "event"}, False),
    ({"mode": "event", "commit_body": None, "event_fallback_body": BODY}, True),
    ({"event_fallback_body": "x"}, False),
    ({"event_fallback_body": LEFT_OUT}, True),
    ({"recorded_at_ms": LEFT_OUT}, True),
    *(({"recorded_at_ms": value}, False) for value in (None, True, -1, 1.0, "5")),
    *(({"not_before_ms": value}, True) for value in (LEFT_OUT, None, 0, 7)),
    *(({"not_before_ms": value}, False) for value in ("5", -5, 1.5, True)),
    ({"a later version's": [1]}, True),
]


def changed(change: dict[str, Any]) -> bytes:
    members = {**RAW, **change}
    return json.dumps({k: v for k, v in members.items() if v is not LEFT_OUT}).encode()


def readable(data: bytes) -> bool:
    try:
        ours.decode_record(data)
    except UnreadableRecord:
        return False
    return True


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_the_same_files_are_readable(
    tmp_path: Path, change: dict[str, Any], expected: bool
) -> None:
    """Both clients accept or set aside the same records."""
    data = changed(change)
    name = official._safe_filename("rsv_1")
    (tmp_path / name).write_bytes(data)
    assert expected == readable(data)
    assert expected == bool(official.CommitJournal(tmp_path).load_pending("http://h"))


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b'{"version": 1,', b"\xff", b"[" * 100_000, b"9" * 5000]
)
def test_damage_is_one_kind_of_error(data: bytes) -> None:
    """Whatever is in the file, the caller handles one exception."""
    assert not readable(data)


@pytest.mark.parametrize(
    "change",
    [
        {"commit_body": {}},
        {"commit_body": {"idempotency_key": 5}},
        {"commit_body": {"idempotency_key": ""}},
        {"recorded_at_ms": 2**63},
    ],
)
def test_what_cannot_be_repeated_is_set_aside(change: dict[str, Any]) -> None:
    """A settlement without a key could be charged twice; the official client sends it."""
    assert not readable(changed(change))


@pytest.mark.parametrize(
    "made",
    [
        record(reservation_id=""),
        record(base_url=""),
        record(mode="event"),
        record(commit_body={}),
        record(recorded_at_ms=-1),
        record(commit_body={**BODY, "metadata": {"a": float("nan")}}),
        record(commit_body={**BODY, "metadata": {"a": {1}}}),
    ],
)
def test_what_could_not_be_read_back_is_not_written(made: Record) -> None:
    """The mistake shows while the settlement is still in memory."""
    with pytest.raises((UnreadableRecord, TypeError, ValueError)):
        ours.encode_record(made)
