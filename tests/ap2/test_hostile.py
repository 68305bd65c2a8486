"""Nothing that a body says or raises costs the request that ends its payment."""

import json
import os
import signal
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest

from ap2.cases import raises
from ap2.mandates import mandate
from ap2.running import ACME, run
from ap2.scripted import COMMIT, CREATE, EXTEND, RELEASE, Answer, ScriptedClient
from bursar import CyclesClient, ap2
from bursar.ap2.sendable import FIELDS_BYTES_MAX, sendable_fields
from bursar.wire.fields import FREE_DEPTH_MAX, checked_object

BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Mute(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("not to be shown")


class Opaque:
    """Cannot be shown in any way. (An exception like that is more than asyncio can bear.)"""

    def __str__(self) -> str:
        raise RuntimeError("not to be shown")

    __repr__ = __str__


class Nameless(type):
    """A metaclass that makes names up."""

    @property
    def __name__(cls) -> Any:
        raise RuntimeError("no name")


class Hidden(Exception, metaclass=Nameless):
    """Has no name for whoever asks nicely."""


NESTED = reduce(lambda inner, _: [inner], range(900), [1])
FIELDS: dict[str, Any] = {
    "an object": Opaque(), "within": {"a": [Opaque()]}, "a huge number": 10**30,
    "a number without end": 10**5_000, "deep": NESTED, "half a letter": "\ud800",
    "NUL": "a\0b", "numbers as names": {1: 2, "1": 3}, "NUL in a name": {"\0": 1},
    "not a number": [float("nan"), float("inf")], "long": "y" * 1_000_000,
    "a cycle": (lambda one: one.append(one) or one)([1]),
    "\ud800": 1, "a\0b": 2,
}  # fmt: skip


class Payment:
    """One payment with this body and these options."""

    def __init__(
        self,
        body: Callable[[Any], None],
        script: dict[str, list[Answer]] | None = None,
        **options: Any,
    ) -> None:
        self.body, self.options = body, options
        self.script, self.mandate = script or {}, dict[str, Any]()


@pytest.mark.parametrize("name", FIELDS)
def test_fields_never_cost_the_commit(name: str) -> None:
    """The ledger takes them, the receipt can be made, and it can be signed."""
    with CyclesClient.embedded(":memory:", tenant="acme") as client:
        client.create_budget("500USD")
        with ap2.cycles_guard_payment(client, mandate=mandate(), **ACME) as guard:
            guard.attach_receipt_fields(**{name: FIELDS[name]}, psp_ref="ch_\ud800")
        assert guard.committed
        assert guard.receipt is not None
        assert guard.receipt.psp_ref == "ch_\\ud800"
        (found,) = client.typed.iter_reservations(status="COMMITTED", include="committed_metadata")
        assert found.committed_metadata == {"psp_ref": "ch_\\ud800", **(guard.receipt.extra or {})}
    assert ap2.sign_receipt(guard.receipt, ap2.SigningKey(b"1" * 32))


def test_all_fields_at_once_fit_into_a_request() -> None:
    """The reference is kept, a long text is cut, and what no longer fits is left out."""
    many = {f"f{n}": "é" * 1_000 for n in range(100)}
    said = sendable_fields({**many, "list": ["x" * 100_000], "psp_ref": "ch_1", **FIELDS})
    assert len(json.dumps(said, ensure_ascii=False).encode()) <= FIELDS_BYTES_MAX
    assert said["psp_ref"] == "ch_1"
    assert "list" not in said
    assert said == checked_object(said)
    (cut,) = sendable_fields({"a": "\x01" * 100_000}).values()
    assert cut.endswith("…")
    assert len(cut) > 10_000


def test_what_a_ledger_takes_is_left_as_it_is() -> None:
    """Nothing is changed for the sake of order."""
    deepest: Any = reduce(lambda inner, _: {"a": inner}, range(FREE_DEPTH_MAX - 1), 1)
    said = {"t": "é", "n": 2**64 - 1, "m": -(2**63), "f": 1.5, "b": True, "o": None, "d": deepest}
    assert sendable_fields(said) == checked_object(said)
    assert sendable_fields({"t": (1, 2)}) == {"t": [1, 2]}


@BOTH
def test_exceptions_that_cannot_be_shown(asynchronous: bool) -> None:
    """They release, hold and chain like others, and go on as they are."""
    for error in (Mute(), Hidden("x")):
        found = run(ap2, Payment(raises(error)), asynchronous=asynchronous)
        assert found.raised is error
        assert found.client.made == [CREATE, RELEASE]
        kinds = (Mute, Hidden)
        found = run(ap2, Payment(raises(error), unknown_on=kinds), asynchronous=asynchronous)
        assert found.raised is error
        assert found.client.made == [CREATE, EXTEND]
    found = run(ap2, Payment(lambda guard: None, {COMMIT: [Mute()]}), asynchronous=asynchronous)
    assert isinstance(found.raised, ap2.AP2GuardCommitUncertain)
    assert "Mute: <Mute that cannot be shown>" in str(found.raised)
    found = run(
        ap2,
        Payment(raises(ValueError("x")), {RELEASE: [Mute()]}),
        asynchronous=asynchronous,
    )
    assert isinstance(found.raised, ValueError)


@pytest.mark.parametrize("reason", ["\ud800", "a\0b", "é" * 1_000, None, Opaque()])
def test_reasons_of_an_abort_never_cost_the_release(reason: Any) -> None:
    """What was not paid is given back, whatever is said about it."""
    with CyclesClient.embedded(":memory:", tenant="acme") as client:
        client.create_budget("500USD")
        with ap2.cycles_guard_payment(client, mandate=mandate(), **ACME) as guard:
            guard.abort(reason)
        (balance,) = client.typed.iter_balances(tenant="acme")
        assert balance.reserved is not None
        assert balance.reserved.amount == 0


@BOTH
def test_one_of_a_group_is_unknown(asynchronous: bool) -> None:
    """A task group wraps what its tasks raise; the money may have moved all the same."""
    said = ap2.AP2PaymentUnknown()
    for leaf in (TimeoutError("psp"), said):
        error = BaseExceptionGroup("tasks", [ValueError(), ExceptionGroup("inner", [leaf])])
        found = run(ap2, Payment(raises(error), unknown_on=TimeoutError), asynchronous=asynchronous)
        assert found.raised is error
        assert found.client.made == [CREATE, EXTEND]
        assert "stays held" in error.__notes__[0]
    assert (said.reservation_id, said.held_until_ms) == ("rsv_1", 5_000)
    other = ExceptionGroup("tasks", [ValueError()])
    found = run(ap2, Payment(raises(other), unknown_on=TimeoutError), asynchronous=asynchronous)
    assert found.client.made == [CREATE, RELEASE]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"unknown_on": "TimeoutError"}, TypeError, "unknown_on must be exception classes"),
        ({"unknown_on": [TimeoutError]}, TypeError, "unknown_on must be exception classes"),
        ({"unknown_on": (TimeoutError("x"),)}, TypeError, "unknown_on must be exception classes"),
        ({"mandate": {"transaction_id": "t"}}, TypeError, "mandate must be an AP2Mandate"),
        ({"metadata": ["x"]}, TypeError, "metadata must be a mapping"),
        ({"rate": "1.08"}, TypeError, "rate must be an ExchangeRate"),
        ({"refund_id": 5}, ap2.AP2MandateError, "refund_id must be text of 1 to 256"),
        ({"refund_id": ""}, ap2.AP2MandateError, "refund_id must be text of 1 to 256"),
        ({"refund_id": "\ud800"}, ap2.AP2MandateError, "refund_id must not hold NUL"),
    ],
)
def test_terms_that_are_none(options: dict[str, Any], kind: type[Exception], said: str) -> None:
    """Found out when the guard is made: at its end, money would have moved already."""
    client = ScriptedClient()
    with pytest.raises(kind, match=said):
        ap2.cycles_guard_payment(client, **{"mandate": mandate(), **ACME, **options})
    assert client.calls == []


def test_a_fork_leaves_the_payment_to_its_parent() -> None:
    """A child that leaves its copy of the block neither releases nor commits."""
    client = ScriptedClient()
    reader, writer = os.pipe()
    with ap2.cycles_guard_payment(client, mandate=mandate(), **ACME) as guard:
        child = os.fork()
        if child == 0:
            try:
                guard.__exit__(SystemExit, SystemExit(), None)
                os.write(writer, ",".join(client.made).encode())
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as made:
        assert made.read() == CREATE
    assert client.made == [CREATE, COMMIT]


def test_the_rate_is_not_the_bodys_to_change() -> None:
    """What the receipt says about the conversion is what was converted with."""
    from datetime import UTC, datetime, timedelta

    rate = ap2.ExchangeRate.quoted(
        "EUR", "1.1", as_of=datetime.now(UTC), source="bank", max_age=timedelta(hours=1)
    )
    euros = mandate(currency="EUR")
    with ap2.cycles_guard_payment(ScriptedClient(), mandate=euros, rate=rate, **ACME) as guard:
        guard.attach_receipt_fields(ap2_exchange_rate={"rate": "1/1"})
    assert guard.receipt is not None
    assert guard.receipt.extra == {"ap2_exchange_rate": rate.document()}
