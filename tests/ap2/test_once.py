"""At most once, on a real ledger: claims, replays, takeovers, refunds."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ap2.mandates import MICROS, mandate
from bursar import CyclesClient, ap2
from bursar.client.local import EmbeddedClient

GUARDED: dict[str, Any] = {"run_id": "run_a", "tenant": "acme"}


@pytest.fixture
def client() -> Iterator[EmbeddedClient]:
    with CyclesClient.embedded(":memory:", tenant="acme") as made:
        made.create_budget("10000USD")
        yield made


def balance(client: EmbeddedClient) -> tuple[int, int]:
    """Return what is spent and what is held."""
    (found,) = client.typed.iter_balances(tenant="acme")
    assert found.spent is not None
    assert found.reserved is not None
    return found.spent.amount, found.reserved.amount


def denied(client: EmbeddedClient, **options: Any) -> ap2.AP2GuardDenied:
    """Present the mandate and return why it was denied; its body must not run."""
    given = options.pop("mandate", mandate())
    with (
        pytest.raises(ap2.AP2GuardDenied) as refused,
        ap2.cycles_guard_payment(client, mandate=given, **{**GUARDED, **options}),
    ):
        raise AssertionError("the body ran")
    return refused.value


def test_a_mandate_is_paid_once(client: EmbeddedClient) -> None:
    """The very same request of another guard is refused, with the outcome of the first."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED) as guard:
        guard.attach_receipt_fields(psp_ref="ch_1")
    again = denied(client)
    assert again.reason_code == "REPLAYED_SETTLED"
    assert again.earlier is not None
    assert (again.earlier.status, again.earlier.committed_micros) == ("COMMITTED", MICROS)
    assert again.earlier.reservation_id == guard.reservation_id
    assert again.earlier.receipt_fields == {"psp_ref": "ch_1"}
    assert balance(client) == (MICROS, 0)


def test_a_guard_that_is_entered_twice_pays_once(client: EmbeddedClient) -> None:
    """A block in a loop is a second presentation."""
    guard = ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED)
    with guard:
        pass
    with pytest.raises(ap2.AP2GuardDenied) as refused, guard:
        raise AssertionError("the body ran")
    assert refused.value.reason_code == "REPLAYED_SETTLED"
    assert not guard.committed


def test_a_second_instance_while_the_first_pays(client: EmbeddedClient) -> None:
    """The same worker code, mandate and run id, started twice: one body runs."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED):
        second = denied(client)
    assert second.reason_code == "PRESENTED_ELSEWHERE"
    assert second.earlier is not None
    assert second.earlier.status == "ACTIVE"
    assert balance(client) == (MICROS, 0)


def test_another_run_is_told_which_run_was_first(client: EmbeddedClient) -> None:
    """The message names both run ids."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED):
        pass
    other = denied(client, run_id="run_b")
    assert other.reason_code == "IDEMPOTENCY_MISMATCH"
    assert "run_id was 'run_a' and is 'run_b'" in str(other)


def test_two_checkouts_of_one_open_mandate(client: EmbeddedClient) -> None:
    """The second is refused, and told about the first."""
    first = mandate(open_mandate_hash="omh", transaction_id="checkout-1")
    second = mandate(open_mandate_hash="omh", transaction_id="checkout-2")
    with ap2.cycles_guard_payment(client, mandate=first, **GUARDED):
        pass
    found = denied(client, mandate=second)
    assert found.reason_code == "IDEMPOTENCY_MISMATCH"
    assert "ap2_transaction_id was 'checkout-1' and is 'checkout-2'" in str(found)
    assert found.earlier is not None
    assert found.earlier.transaction_id == "checkout-1"


def test_a_released_mandate_is_used_up(client: EmbeddedClient) -> None:
    """After a body that raised, the budget is back, and the mandate is not paid any more."""
    with (
        pytest.raises(ValueError, match="declined"),
        ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED),
    ):
        raise ValueError("declined")
    assert balance(client) == (0, 0)
    found = denied(client)
    assert found.reason_code == "REPLAYED_SETTLED"
    assert "released" in str(found)


def test_without_a_claim_what_is_over_is_still_over(client: EmbeddedClient) -> None:
    """The official request is replayed by the ledger, whose lease of 0 ms says that it ended."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), claim=False, **GUARDED):
        pass
    found = denied(client, claim=False)
    assert found.reason_code == "REPLAYED_SETTLED"
    assert found.earlier is not None
    assert found.earlier.status == "COMMITTED"


def test_a_probe_does_not_use_the_mandate_up(client: EmbeddedClient) -> None:
    """A dry run, twice, and then the payment."""
    for _ in range(2):
        with (
            pytest.raises(ap2.AP2DryRunResult),
            ap2.cycles_guard_payment(client, mandate=mandate(), dry_run=True, **GUARDED),
        ):
            raise AssertionError("the body ran")
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED) as guard:
        pass
    assert guard.committed


@pytest.mark.parametrize("paid", [True, False])
def test_an_unknown_payment_is_settled_later(client: EmbeddedClient, paid: bool) -> None:
    """Held while unknown, refused to everybody else, settled once by who resumes it."""
    with (
        pytest.raises(ap2.AP2PaymentUnknown),
        ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED),
    ):
        raise ap2.AP2PaymentUnknown
    assert balance(client) == (0, MICROS)
    assert denied(client).reason_code == "PRESENTED_ELSEWHERE"
    with ap2.cycles_guard_payment(client, mandate=mandate(), resume=True, **GUARDED) as guard:
        assert guard.resumed
        if not paid:
            guard.abort("the service knows no such payment")
    assert guard.committed == paid
    assert balance(client) == ((MICROS if paid else 0), 0)
    assert denied(client, resume=True).reason_code == "REPLAYED_SETTLED"


def test_two_resume_at_once(client: EmbeddedClient) -> None:
    """Of those who read the same lease, one goes on."""
    with (
        pytest.raises(ap2.AP2PaymentUnknown),
        ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED),
    ):
        raise ap2.AP2PaymentUnknown
    both = threading.Barrier(2)

    class Together:
        """Both read before either claims."""

        def __getattr__(self, method: str) -> Any:
            def call(*arguments: Any, **query: Any) -> Any:
                answer = getattr(client, method)(*arguments, **query)
                if method == "list_reservations":
                    both.wait(10)
                return answer

            return call

    ended: list[str | None] = []

    def resume() -> None:
        guard = ap2.cycles_guard_payment(Together(), mandate=mandate(), resume=True, **GUARDED)
        try:
            with guard:
                both.wait(10)
            ended.append("paid")
        except ap2.AP2GuardDenied as refused:
            ended.append(refused.reason_code)
            both.wait(10)

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, ended)) == ["PRESENTED_ELSEWHERE", "paid"]
    assert balance(client) == (MICROS, 0)


def test_a_refund_is_guarded_like_a_payment(client: EmbeddedClient) -> None:
    """Each refund once, under keys of its own; the charge is not touched."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED):
        pass
    for refund, value in (("r-1", "100"), ("r-2", None)):
        with ap2.cycles_guard_refund(
            client, mandate=mandate(), refund_id=refund, amount_value=value, **GUARDED
        ) as guard:
            pass
        assert guard.receipt is not None
        assert guard.receipt.schema_name == "runtime_authority.ap2.payment.refund.v1"
        assert guard.receipt.action_kind == "payment.refund"
    with (
        pytest.raises(ap2.AP2GuardDenied) as again,
        ap2.cycles_guard_refund(client, mandate=mandate(), refund_id="r-2", **GUARDED),
    ):
        raise AssertionError("the body ran")
    assert again.value.reason_code == "REPLAYED_SETTLED"
    assert balance(client)[0] == MICROS + 10_000_000_000 + MICROS


def test_a_charge_and_its_refund_do_not_collide(client: EmbeddedClient) -> None:
    """Also where the refund is asked for by its kind alone, as users of the official guard do."""
    with ap2.cycles_guard_payment(client, mandate=mandate(), **GUARDED):
        pass
    refund = {**GUARDED, "action_kind": "payment.refund"}
    with ap2.cycles_guard_payment(client, mandate=mandate(), **refund) as guard:
        pass
    assert guard.committed


@pytest.mark.parametrize("value", ["199.01", "-1", "NaN"])
def test_a_refund_is_at_most_the_payment(client: EmbeddedClient, value: str) -> None:
    """More, or less than nothing, is a typed error."""
    with pytest.raises(ap2.AP2MandateError):
        ap2.cycles_guard_refund(
            client, mandate=mandate(), refund_id="r", amount_value=value, **GUARDED
        )
    with pytest.raises(ap2.AP2MandateError, match="refund_id"):
        ap2.cycles_guard_refund_async(object(), mandate=mandate(), refund_id="", **GUARDED)
