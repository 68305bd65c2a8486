"""The scripted server answers as the ledger does, and fails only as it is told to."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.client import calls
from bursar.client.embedded import EmbeddedLedger
from bursar.client.outcome import Expected, read_answer
from bursar.client.response import CyclesResponse
from client.scripted import (
    Gate,
    ScriptedServer,
    answer,
    deny,
    held,
    lost,
    refuse,
    slow,
    unreachable,
)

SUBJECT = {"tenant": "acme"}
ACTION = {"kind": "k", "name": "n"}
TEN = {"unit": "USD_MICROCENTS", "amount": 10}
SAID = ("decision", "status", "charged", "released", "error")


@pytest.fixture(params=["scripted", "ledger"])
def send(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The fake and the real thing."""
    if request.param == "scripted":
        yield ScriptedServer().transport().send
        return
    ledger = EmbeddedLedger(":memory:", "acme")
    ledger.create_budget(1_000_000)
    yield ledger.send
    ledger.close()


def create(key: str, **more: Any) -> calls.Call:
    request = {"idempotency_key": key, "subject": SUBJECT, "action": ACTION, "estimate": TEN}
    return calls.create_reservation({**request, **more})


def said(response: CyclesResponse) -> tuple[int, dict[str, Any]]:
    """Return the status and what of the body both must say."""
    body = response.body or {}
    return response.status, {name: body[name] for name in SAID if name in body}


def test_the_life_of_a_reservation(send: Any) -> None:
    """Each step, its repetition, a reused key, and what comes too late."""
    made = send(create("c", ttl_ms=60_000))
    assert said(made) == (200, {"decision": "ALLOW"})
    assert read_answer(made.body, Expected.CREATE)
    assert made.body["remaining_ttl_ms"] == 60_000
    rid = made.body["reservation_id"]
    assert send(create("c", ttl_ms=60_000)).body["reservation_id"] == rid
    assert said(send(create("c", ttl_ms=50_000))) == (409, {"error": "IDEMPOTENCY_MISMATCH"})

    extended = send(calls.extend_reservation(rid, {"idempotency_key": "x", "extend_by_ms": 9_000}))
    assert said(extended) == (200, {"status": "ACTIVE"})
    assert read_answer(extended.body, Expected.EXTEND)

    commit = calls.commit_reservation(rid, {"idempotency_key": "m", "actual": TEN})
    for _ in range(2):
        committed = send(commit)
        assert said(committed) == (200, {"status": "COMMITTED", "charged": TEN})
        assert read_answer(committed.body, Expected.COMMIT)
    late = calls.release_reservation(rid, {"idempotency_key": "l"})
    assert said(send(late)) == (409, {"error": "RESERVATION_FINALIZED"})
    over = send(create("c", ttl_ms=60_000))
    assert said(over) == (200, {"decision": "ALLOW"})
    assert (over.body["reservation_id"], over.body["remaining_ttl_ms"]) == (rid, 0)


def test_the_other_ends(send: Any) -> None:
    """A release, an event, a dry run, a decision, and a reservation that is none."""
    rid = send(create("c")).body["reservation_id"]
    released = send(calls.release_reservation(rid, {"idempotency_key": "l", "reason": "r"}))
    assert said(released) == (200, {"status": "RELEASED", "released": TEN})
    assert read_answer(released.body, Expected.RELEASE)
    event = {"idempotency_key": "e", "subject": SUBJECT, "action": ACTION, "actual": TEN}
    applied = send(calls.create_event(event))
    assert said(applied)[0] == 201
    assert read_answer(applied.body, Expected.EVENT)
    dry = send(create("d", dry_run=True))
    assert said(dry) == (200, {"decision": "ALLOW"})
    assert "reservation_id" not in dry.body
    asked = {"idempotency_key": "a", "subject": SUBJECT, "action": ACTION, "estimate": TEN}
    assert said(send(calls.decide(asked))) == (200, {"decision": "ALLOW"})
    unknown = calls.commit_reservation("rsv_none", {"idempotency_key": "m", "actual": TEN})
    assert said(send(unknown)) == (404, {"error": "NOT_FOUND"})


def test_faults_are_used_up_in_order() -> None:
    """What was lost was done; what was refused was not; then the server is as it is."""
    server = ScriptedServer()
    send = server.transport().send
    server.on("createReservation", lost(), unreachable(), refuse(503), None, deny("BUDGET_FROZEN"))
    statuses = [send(create(key)).status for key in ("a", "b", "b", "b", "c", "a")]
    assert statuses == [-1, -1, 503, 200, 200, 200]
    assert server.open == ["rsv_1", "rsv_2"]
    assert [body["idempotency_key"] for body in server.bodies("createReservation")] == list(
        "abbbca"
    )
    server.on("getBalances", answer(200, {"balances": []}))
    read = calls.get_balances({"tenant": "acme"})
    assert (send(read).body, send(read).status) == ({"balances": []}, 501)
    limited = server.on("decide", refuse(429, "LIMIT_EXCEEDED", retry_after_s=2))
    assert limited is None
    assert send(calls.decide({"idempotency_key": "x"})).retry_after_ms_header == 2_000


def test_answers_wait_for_gates_and_time() -> None:
    """In a loop without stopping it; the server has acted before it waits."""
    server, gate = ScriptedServer(), Gate()
    server.on("createReservation", held(gate), slow(0.02))

    async def both() -> None:
        send = server.async_transport().send
        task = asyncio.create_task(send(create("a")))
        await gate.wait_reached()
        assert (task.done(), server.open) == (False, ["rsv_1"])
        gate.open()
        assert (await task).status == 200
        began = time.monotonic()
        await send(create("b"))
        assert time.monotonic() - began >= 0.02

    asyncio.run(both())


def test_what_was_answered_is_not_changed_by_who_reads_it() -> None:
    """Neither the server's memory nor the calls that it noted."""
    server = ScriptedServer(caps={"max_tokens": 1})
    send: Any = server.transport().send
    call: Any = create("a")
    send(call).body["caps"]["max_tokens"] = 2
    call.body["subject"] = {}
    assert send(create("a")).body["caps"] == {"max_tokens": 1}
    assert server.bodies("createReservation")[0]["subject"] == SUBJECT
