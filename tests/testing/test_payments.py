"""The payment service of the tests charges what it is asked for, and fails as it is told."""

import json
import urllib.error
import urllib.request
from http.client import RemoteDisconnected
from typing import Any

import pytest

from bursar.testing.payments import Charged, Mishap, PaymentService


def charge(
    service: PaymentService, amount: int = 7, key: str | None = None, timeout: float = 5
) -> tuple[int, Any]:
    """Ask for a charge; return status and body."""
    body = json.dumps({"reference": "tx", "amount": amount}).encode()
    headers = {"Idempotency-Key": key} if key else {}
    request = urllib.request.Request(f"{service.url}/charges", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_it_charges_twice_if_asked_twice() -> None:
    """Without a key, two requests are two charges."""
    with PaymentService() as service:
        assert [charge(service)[0] for _ in range(2)] == [201, 201]
        assert [one.id for one in service.charged("tx")] == ["ch_1", "ch_2"]


def test_a_key_charges_once() -> None:
    """The same key is the same charge, and never another one."""
    with PaymentService() as service:
        first, second = charge(service, key="k"), charge(service, key="k")
        assert (first[0], second[0]) == (201, 200)
        assert first[1] == second[1]
        assert charge(service, amount=8, key="k")[0] == 409
        assert service.charges == [Charged("ch_1", "tx", 7, "k")]
        with urllib.request.urlopen(f"{service.url}/charges?key=k", timeout=5) as found:
            assert json.load(found) == first[1]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{service.url}/charges?key=other", timeout=5)


@pytest.mark.parametrize(
    ("mishap", "charges"),
    [(Mishap.HANG_UP, 1), (Mishap.HANG_UP_FIRST, 0), (Mishap.TIME_OUT, 1)],
)
def test_an_answer_that_never_comes(mishap: Mishap, charges: int) -> None:
    """It charged, or it did not; the caller cannot tell."""
    with PaymentService() as service:
        service.next(mishap)
        with pytest.raises((RemoteDisconnected, TimeoutError)):
            charge(service, timeout=0.5)
        assert len(service.charges) == charges
        assert charge(service)[0] == 201


def test_a_decline_charges_nothing() -> None:
    """The service says no, once."""
    with PaymentService() as service:
        service.next(Mishap.DECLINE)
        assert charge(service) == (402, {"error": "card declined"})
        assert service.charges == []


def test_it_dies() -> None:
    """After the block nobody answers."""
    seen: list[Charged] = []
    with PaymentService(seen.append) as service:
        charge(service)
    with pytest.raises(OSError, match="refused"):
        charge(service)
    assert seen == service.charges
