"""Commits that the journal finishes: written down before they are sent, forgotten when settled."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ap2.mandates import MICROS, mandate
from bursar import ap2
from bursar.client.response import CyclesResponse
from client.scripted import Fault, lost
from client.shells import Shell, shells

Ended = tuple[BaseException | None, Any]


@pytest.fixture(params=["sync", "async"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A client of each kind on a scripted server, with a journal."""
    yield from shells(request.param == "async", tmp_path / "journal")


def pay(shell: Shell, **changes: Any) -> Ended:
    """Pay once with `settlement="journal"`; return what was raised, and the guard."""
    make = ap2.cycles_guard_payment_async if shell.asynchronous else ap2.cycles_guard_payment
    terms: dict[str, Any] = {"run_id": "run_a", "tenant": "acme", "settlement": "journal"}
    guard: Any = make(shell.client, mandate=mandate(**changes), **terms)

    async def suspending() -> None:
        async with guard:
            guard.attach_receipt_fields(psp_ref="ch_1")

    def blocking() -> None:
        with guard:
            guard.attach_receipt_fields(psp_ref="ch_1")

    try:
        shell.run(suspending()) if shell.asynchronous else blocking()
    except ap2.AP2GuardError as error:
        return error, guard
    return None, guard


def refuse(status: int, code: str | None = None) -> Fault:
    """Answer without acting."""
    body = {"error": code, "message": "m", "request_id": "r"} if code else None
    return Fault(CyclesResponse.http_error(status, "m", body))


def test_a_commit_that_arrives_leaves_nothing(shell: Shell) -> None:
    """One commit, no record, a receipt."""
    raised, guard = pay(shell)
    assert raised is None
    assert guard.committed
    assert guard.receipt.psp_ref == "ch_1"
    assert shell.server.charged == {"rsv_1": MICROS}
    assert shell.journal() == []


def test_the_record_is_on_disk_before_the_commit_leaves(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies from here on is finished by the next process."""
    found: list[int] = []
    receive = shell.server.receive

    def look(call: Any) -> Any:
        if call.operation == "commitReservation":
            found.append(len(shell.journal()))
        return receive(call)

    monkeypatch.setattr(shell.server, "receive", look)
    pay(shell)
    assert found == [1]


@pytest.mark.parametrize("fault", [lost(), refuse(503), refuse(401), refuse(429), refuse(400)])
def test_an_uncertain_commit_is_finished(shell: Shell, fault: Fault) -> None:
    """It is raised all the same, says that the journal has it, and arrives once, as it was."""
    shell.server.on("commitReservation", fault)
    raised, _ = pay(shell)
    assert isinstance(raised, ap2.AP2GuardCommitUncertain)
    assert raised.journaled
    assert len(shell.journal()) == 1
    assert shell.flush() == 0
    assert shell.server.charged == {"rsv_1": MICROS}
    bodies = shell.server.bodies("commitReservation")
    assert all(body == bodies[0] for body in bodies)
    assert shell.server.released == {}
    assert shell.journal() == []


def test_a_lease_that_ended_becomes_an_event(shell: Shell) -> None:
    """The money is accounted for, so nothing is uncertain."""
    shell.server.on("commitReservation", refuse(410, "RESERVATION_EXPIRED"))
    raised, guard = pay(shell)
    assert raised is None
    assert guard.committed
    assert shell.server.events == [MICROS]
    (event,) = shell.server.bodies("createEvent")
    assert event["metadata"]["recovered_reservation_id"] == "rsv_1"
    assert event["subject"]["dimensions"]["ap2_transaction_id"] == "ap2-tx-001"


@pytest.mark.parametrize("answer", [refuse(503), refuse(400, "INVALID_REQUEST")])
def test_an_event_that_does_not_arrive(shell: Shell, answer: Fault) -> None:
    """The lease is over and the spend is not recorded yet, or never: uncertain, no release."""
    shell.server.on("commitReservation", refuse(410, "RESERVATION_EXPIRED"))
    shell.server.on("createEvent", answer)
    raised, guard = pay(shell)
    assert isinstance(raised, ap2.AP2GuardCommitUncertain)
    assert raised.error_code == "RESERVATION_EXPIRED"
    assert raised.journaled == (answer == refuse(503))
    assert not guard.committed
    assert shell.server.released == {}


@pytest.mark.parametrize("code", ["RESERVATION_FINALIZED", "IDEMPOTENCY_MISMATCH"])
def test_asking_again_would_change_nothing(shell: Shell, code: str) -> None:
    """What the ledger settled before is uncertain, and not journaled."""
    shell.server.on("commitReservation", refuse(409, code))
    raised, _ = pay(shell)
    assert isinstance(raised, ap2.AP2GuardCommitUncertain)
    assert (raised.error_code, raised.journaled) == (code, False)
    assert shell.journal() == []


def test_a_rejected_commit_is_kept_for_the_operator(shell: Shell) -> None:
    """The seed's contract holds: released and raised; the record stays as `*.rejected`."""
    shell.server.on("commitReservation", refuse(400, "INVALID_REQUEST"))
    raised, _ = pay(shell)
    assert isinstance(raised, ap2.AP2GuardCommitFailed)
    assert raised.released
    assert shell.server.released == {"rsv_1": "ap2_commit_rejected:INVALID_REQUEST"}
    assert len(list(shell.folder.rglob("*.rejected"))) == 1


def test_what_an_earlier_process_left_is_taken_over(shell: Shell) -> None:
    """Entering the next guard is enough: nobody has to flush."""
    shell.configure(retry_enabled=False)
    shell.server.on("commitReservation", refuse(503))
    assert pay(shell)[0] is not None
    assert shell.server.charged == {}
    shell.configure(retry_enabled=True)
    assert pay(shell, transaction_id="another")[0] is None
    shell.flush()
    assert shell.server.charged == {"rsv_1": MICROS, "rsv_2": MICROS}


def test_cancelled_while_committing(tmp_path: Path) -> None:
    """COMMIT_CANCELLED says that the journal has it, and closing the client finishes it."""
    from client.scripted import Gate, held

    for shell in shells(True, tmp_path):
        gate = Gate()
        shell.server.on("commitReservation", held(gate))

        async def main(shell: Shell = shell, gate: Gate = gate) -> None:
            task = asyncio.create_task(_pay_async(shell))
            await gate.wait_reached()
            task.cancel()
            with pytest.raises(ap2.AP2GuardCommitUncertain) as raised:
                await task
            assert (raised.value.error_code, raised.value.journaled) == ("COMMIT_CANCELLED", True)
            gate.open()
            assert await shell.client.flush(5.0) == 0

        shell.run(main())
        assert shell.server.charged == {"rsv_1": MICROS}
        assert shell.journal() == []


async def _pay_async(shell: Shell) -> None:
    async with ap2.cycles_guard_payment_async(
        shell.client, mandate=mandate(), run_id="r", tenant="acme", settlement="journal"
    ):
        pass


def test_a_record_that_did_not_reach_the_disk(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`journaled` promises nothing that is not so, however the commit failed."""
    from bursar.client import settling
    from bursar.client.journal import Journal, JournalError

    def broken(*_: Any) -> Any:
        raise OSError("not even an answer")

    monkeypatch.setattr(settling, "attempt", broken)
    raised, _ = pay(shell)
    assert isinstance(raised, ap2.AP2GuardCommitUncertain)
    assert (raised.error_code, raised.journaled) == ("COMMIT_RAISED", True)
    assert len(shell.journal()) == 1

    def full(*_: Any) -> None:
        raise JournalError("no space left on device")

    monkeypatch.setattr(Journal, "write", full)
    raised, _ = pay(shell, transaction_id="another")
    assert isinstance(raised, ap2.AP2GuardCommitUncertain)
    assert (raised.error_code, raised.journaled) == ("COMMIT_RAISED", False)


def test_cancelled_while_committing_with_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT_CANCELLED does not say that the journal has what it could not take."""
    from bursar.client.journal import Journal, JournalError
    from client.scripted import Gate, held

    def full(*_: Any) -> None:
        raise JournalError("no space left on device")

    monkeypatch.setattr(Journal, "write", full)
    for shell in shells(True, tmp_path):
        gate = Gate()
        shell.server.on("commitReservation", held(gate))

        async def main(shell: Shell = shell, gate: Gate = gate) -> None:
            task = asyncio.create_task(_pay_async(shell))
            await gate.wait_reached()
            task.cancel()
            with pytest.raises(ap2.AP2GuardCommitUncertain) as raised:
                await task
            assert (raised.value.error_code, raised.value.journaled) == ("COMMIT_CANCELLED", False)
            gate.open()
            assert await shell.client.flush(5.0) == 0

        shell.run(main())
