"""The names and signatures of the official guard, and both shells of ours held to each other."""

import inspect
from typing import Any

import pytest
import runcycles_ap2

from ap2.mandates import mandate
from ap2.scripted import AsyncScriptedClient, ScriptedClient
from bursar import CyclesClient, CyclesConfig, ap2
from bursar.client.aio import AsyncCyclesClient

OURS = {
    *("refund_id", "claim", "resume", "settlement", "unknown_on", "hold_ms", "rate", "heartbeat"),
}
ATTRIBUTES = {
    "AP2GuardDenied": {"reason_code", "request_id"},
    "AP2DryRunResult": {"decision", "reason_code", "caps", "balances", "affected_scopes"},
    "AP2GuardCommitUncertain": {"error_code", "request_id", "reservation_id"},
    "AP2GuardCommitFailed": {
        *("error_code", "request_id", "reservation_id", "released", "release_error"),
    },
}
MAKERS = ("GuardedPayment", "AsyncGuardedPayment", "cycles_guard_payment",
          "cycles_guard_payment_async")  # fmt: skip


def test_every_official_name_is_here() -> None:
    """What is imported from the official package can be imported from ours."""
    assert set(runcycles_ap2.__all__) <= set(ap2.__all__)
    assert isinstance(ap2.__version__, str)


@pytest.mark.parametrize("name", MAKERS)
def test_signatures_are_the_official_ones(name: str) -> None:
    """The same parameters, kinds and defaults, in the same order; ours come after them."""
    ours = dict(inspect.signature(getattr(ap2, name)).parameters)
    theirs = inspect.signature(getattr(runcycles_ap2, name)).parameters
    own = {parameter: ours.pop(parameter) for parameter in OURS}
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in own.values())


@pytest.mark.parametrize("name", MAKERS)
def test_makers_explain_every_parameter(name: str) -> None:
    """The documentation of the functions names each of them."""
    made = getattr(ap2, name)
    if inspect.isfunction(made):
        assert made.__name__ == name
        for parameter in inspect.signature(made).parameters:
            assert f"    {parameter}: " in (made.__doc__ or "")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_exceptions_are_made_and_read_like_the_official_ones(name: str) -> None:
    """The same base classes and constructors, the same attributes with the same defaults."""
    ours, theirs = getattr(ap2, name), getattr(runcycles_ap2, name)
    given: dict[str, Any] = {"decision": "ALLOW"} if name == "AP2DryRunResult" else {}
    a, b = ours("said", **given), theirs("said", **given)
    assert str(a) == str(b)
    for attribute in ATTRIBUTES[name]:
        assert getattr(a, attribute) == getattr(b, attribute)
    assert isinstance(a, ap2.AP2GuardError)


def test_mandate_errors_are_value_errors() -> None:
    """Existing handlers of `ValueError` catch them."""
    for kind in (ap2.AP2MandateError, ap2.AP2CurrencyError):
        assert issubclass(kind, ap2.AP2GuardError)
        assert issubclass(kind, ValueError)


def test_members_of_the_guard() -> None:
    """What the official guard offers, ours offers, and both shells offer the same."""
    members = {name for name in dir(runcycles_ap2.GuardedPayment) if not name.startswith("_")}
    blocking = {name for name in dir(ap2.GuardedPayment) if not name.startswith("_")}
    assert members <= blocking
    assert blocking == {name for name in dir(ap2.AsyncGuardedPayment) if not name.startswith("_")}
    unused = ap2.GuardedPayment(ScriptedClient(), mandate=mandate(), run_id="r")
    assert (unused.reservation_id, unused.decision, unused.receipt, unused.committed) == (
        None, None, None, False,
    )  # fmt: skip
    assert (unused.caps, unused.resumed) == (None, False)


def test_a_guard_takes_a_client_of_its_kind() -> None:
    """The blocking guard refuses the asynchronous client, and the other way round."""
    config = CyclesConfig("http://127.0.0.1:9", "key")
    with pytest.raises(TypeError, match="GuardedPayment does not take a AsyncCyclesClient"):
        ap2.cycles_guard_payment(AsyncCyclesClient(config), mandate=mandate(), run_id="r")
    with pytest.raises(TypeError, match="AsyncGuardedPayment does not take a CyclesClient"):
        ap2.cycles_guard_payment_async(CyclesClient(config), mandate=mandate(), run_id="r")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settlement": "later"}, "settlement must be one of raise, journal"),
        ({"settlement": "journal"}, "needs a client of bursar"),
        ({"heartbeat": True}, "heartbeat=True needs a client of bursar"),
        ({"hold_ms": 0}, "extend_by_ms"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], said: str) -> None:
    """Before anything is sent, with the name and what would work."""
    client = ScriptedClient()
    with pytest.raises(ValueError, match=said):
        ap2.cycles_guard_payment(client, mandate=mandate(), run_id="r", **options)
    assert client.calls == []


def test_a_journal_that_is_off_is_no_journal() -> None:
    """The guard does not promise what the client's settings do not allow."""
    off = CyclesClient(CyclesConfig("http://127.0.0.1:9", "key", journal_enabled=False))
    with pytest.raises(ValueError, match="journal_enabled=True"):
        ap2.cycles_guard_payment(off, mandate=mandate(), run_id="r", settlement="journal")


def test_terms_are_read_when_the_guard_is_made() -> None:
    """A body that changes the mandate changes neither amount nor keys."""
    given, client = mandate(), ScriptedClient()
    with ap2.cycles_guard_payment(client, mandate=given, run_id="r") as guard:
        given.amount_value, given.transaction_id = "abc", "other"
    assert guard.committed
    created, committed = (
        client.bodies("create_reservation")[0],
        client.bodies("commit_reservation")[0],
    )
    assert committed["actual"]["amount"] == created["estimate"]["amount"]
    assert committed["idempotency_key"].split(":")[2] == created["idempotency_key"].split(":")[2]


def test_mocks_are_clients() -> None:
    """Answers that are no answers, as mocks give them to calls nobody scripted, are survived."""
    from unittest.mock import MagicMock

    from runcycles.client import CyclesClient as TheirClient
    from runcycles.response import CyclesResponse

    mock = MagicMock(spec=TheirClient)
    mock.create_reservation.return_value = CyclesResponse.success(
        200, {"decision": "ALLOW", "reservation_id": "rsv", "affected_scopes": []}
    )
    mock.commit_reservation.return_value = CyclesResponse.success(
        200, {"status": "COMMITTED", "charged": {"unit": "USD_MICROCENTS", "amount": 1}}
    )
    with ap2.cycles_guard_payment(mock, mandate=mandate(), run_id="r") as guard:
        assert guard.reservation_id == "rsv"
    assert guard.committed
    assert AsyncScriptedClient().asynchronous
