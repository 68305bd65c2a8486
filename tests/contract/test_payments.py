"""Payment stores: what is kept, what is refused, who may write, and what is told once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.payments.outcome import BudgetState, Disposition, Money, Trigger, Work
from bursar.payments.ports import (
    NoticeQuery,
    PaymentConflict,
    PaymentQuery,
    PaymentStore,
    Saved,
    Tally,
    Whose,
)
from bursar.payments.records import Change, Evidence, Topic, Transfer, move_work
from bursar.payments.store import open_payments
from bursar.testing.memory_payments import MemoryPayments
from payments.world import NOW_MS, alert, moved, payment, recorded

LEASE_MS = 30_000
DUE = {"next_check_at_ms": NOW_MS}


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PaymentStore]:
    """A new, empty payment store of every kind in turn."""
    made: PaymentStore = (
        MemoryPayments() if request.param == "memory" else open_payments(tmp_path / "ledger.db")
    )
    yield made
    made.close()


def add(store: PaymentStore, name: str = "1", **changes: Any) -> Any:
    record = payment(name, **changes)
    kept, new = store.add(record, recorded(record))
    assert new
    return kept


def test_a_record_comes_back_as_it_was(store: PaymentStore) -> None:
    """Every field is kept, values beyond 64 bits and sealed bytes too."""
    record = add(store, value=2**256 - 1, sealed_payload=b"\x00sealed", work_until_ms=5, **DUE)
    assert store.get("pay_1") == record
    assert store.attempts("acme", "intent_1") == [record]
    assert store.events("pay_1") == [recorded(record)]
    assert store.get("pay_2") is None
    assert store.events("pay_2") == []


def test_the_same_authorization_is_answered_with_what_is_there(store: PaymentStore) -> None:
    """A replay, spelled in other letters and under another id, changes nothing."""
    record = add(store)
    again = payment("1", payment_id="pay_9", nonce=str(record.nonce).upper().replace("X", "x"))
    again = replace(again, asset=record.asset.upper(), payer=record.payer.lower())
    assert store.add(again, recorded(again)) == (record, False)
    assert store.get("pay_9") is None
    assert len(store.events("pay_1")) == 1


@pytest.mark.parametrize(
    "other",
    [{"pay_to": "0x" + "9" * 40}, {"value": 1}, {"resource": "https://shop.test/other"}],
)
def test_another_purchase_with_the_same_authorization(
    store: PaymentStore, other: dict[str, Any]
) -> None:
    """Another payee, value or resource is a conflict, and nothing changes."""
    record = add(store)
    wrong = payment("1", payment_id="pay_9", intent_id="else", **other)
    with pytest.raises(PaymentConflict, match="pay_1 has this authorization") as caught:
        store.add(wrong, recorded(wrong))
    assert caught.value.existing == record
    assert store.get("pay_1") == record
    assert store.get("pay_9") is None


def test_another_tenant_cannot_use_an_authorization_again(store: PaymentStore) -> None:
    """A chain does not know tenants, so the second one is a conflict even if all else agrees."""
    add(store)
    other = payment("1", payment_id="pay_9", tenant="umbrella")
    with pytest.raises(PaymentConflict):
        store.add(other, recorded(other))


def test_an_attempt_has_one_authorization(store: PaymentStore) -> None:
    """A second authorization for an attempt that is on record would be a second payment."""
    add(store)
    second = payment("2", intent_id="intent_1")
    with pytest.raises(PaymentConflict):
        store.add(second, recorded(second))
    next_one = payment("2", intent_id="intent_1", attempt_no=2)
    assert store.add(next_one, recorded(next_one)) == (next_one, True)
    assert [each.attempt_no for each in store.attempts("acme", "intent_1")] == [1, 2]


def test_payments_without_a_nonce_are_told_apart_by_attempt(store: PaymentStore) -> None:
    """What a payment service moves has no nonce; its attempt is answered with what is there."""
    record = add(store, nonce=None)
    again = payment("1", payment_id="pay_9", nonce=None)
    assert store.add(again, recorded(again)) == (record, False)
    other = payment("2", nonce=None)
    assert store.add(other, recorded(other)) == (other, True)


def test_what_a_payer_presents_again_is_found_by_its_nonce(store: PaymentStore) -> None:
    """In every asset that it was signed for, however it is spelled; of nobody else."""
    first = add(store, "1")
    second = add(store, "2", nonce=first.nonce, asset="0x" + "2" * 40)
    add(store, "3")
    add(store, "4", nonce=first.nonce, payer="0x" + "3" * 40)
    add(store, "5", nonce=first.nonce, network="eip155:1")
    assert first.nonce is not None
    for spelled in (str.lower, lambda text: "0x" + text[2:].upper()):
        found = store.presented(first.network, spelled(first.payer), spelled(first.nonce))
        assert found == [first, second]
    assert store.presented("eip155:2", first.payer, first.nonce) == []


def test_only_what_is_due_is_claimed_and_only_once(store: PaymentStore) -> None:
    """The longest due comes first; what is leased, later or closed does not come."""
    for name, due_ms in (("1", NOW_MS), ("2", NOW_MS - 5), ("3", NOW_MS + 1), ("4", None)):
        add(store, name, next_check_at_ms=due_ms)
    [first] = store.claim("a", NOW_MS, LEASE_MS, 1)
    assert (*(first.payment_id, first.lease_owner, first.lease_until_ms, first.fence),) == (
        "pay_2",
        "a",
        NOW_MS + LEASE_MS,
        1,
    )
    assert [each.payment_id for each in store.claim("b", NOW_MS, LEASE_MS, 9)] == ["pay_1"]
    assert store.claim("c", NOW_MS, LEASE_MS, 9) == []
    later = store.claim("c", NOW_MS + LEASE_MS, LEASE_MS, 9)
    assert [each.payment_id for each in later] == ["pay_2", "pay_1", "pay_3"]
    assert [each.fence for each in later] == [2, 2, 1]


def test_a_lease_given_back_is_free(store: PaymentStore) -> None:
    """Who gives a lease back ends it; who lost it ends nobody else's."""
    add(store, **DUE)
    [mine] = store.claim("a", NOW_MS, LEASE_MS, 9)
    store.give_back([(mine.payment_id, mine.fence - 1)])
    assert store.claim("b", NOW_MS, LEASE_MS, 9) == []
    store.give_back([(mine.payment_id, mine.fence)])
    assert [each.payment_id for each in store.claim("b", NOW_MS, LEASE_MS, 9)] == ["pay_1"]


def test_a_change_is_saved_with_its_history(store: PaymentStore) -> None:
    """State and evidence are there together."""
    record = add(store)
    change = moved(record, Trigger.SENDING, Trigger.LOST, next_check_at_ms=NOW_MS)
    assert [result.saved for result in store.save([change])] == [Saved.SAVED]
    assert store.get("pay_1") == change.after
    assert [event.what for event in store.events("pay_1")] == ["RECORDED", "SENDING", "LOST"]
    assert [event.seq for event in store.events("pay_1")] == [1, 2, 3]


def test_a_change_of_an_old_version_is_refused_alone(store: PaymentStore) -> None:
    """Of two changes of one version the first is saved; others in the batch are not touched."""
    record, other = add(store), add(store, "2")
    first, second = moved(record, Trigger.SENDING), moved(record, Trigger.REFUSED)
    results = store.save([first, second, moved(other, Trigger.SENDING)])
    assert [result.saved for result in results] == [Saved.SAVED, Saved.STALE, Saved.SAVED]
    assert store.get("pay_1") == first.after
    assert len(store.events("pay_1")) == 2


def test_a_worker_that_lost_its_lease_is_refused(store: PaymentStore) -> None:
    """The first worker stalls past its lease, the second one writes, the first one may not."""
    record = add(store)
    store.save([moved(record, Trigger.SENDING, Trigger.LOST, **DUE)])
    [slow] = store.claim("slow", NOW_MS, LEASE_MS, 1)
    [fast] = store.claim("fast", NOW_MS + LEASE_MS, LEASE_MS, 1)
    late = replace(moved(slow, Trigger.EXPIRED), fence=slow.fence)
    assert [result.saved for result in store.save([late])] == [Saved.FENCED]
    good = replace(moved(fast, Trigger.SETTLED, next_check_at_ms=None), fence=fast.fence)
    assert [result.saved for result in store.save([good])] == [Saved.SAVED]
    assert [result.saved for result in store.save([replace(late, fence=fast.fence)])] == [
        Saved.STALE
    ]
    kept = store.get("pay_1")
    assert kept is not None
    assert (kept.money, kept.lease_owner, kept.lease_until_ms) == (Money.SETTLED, None, 0)
    whats = [event.what for event in store.events("pay_1")]
    assert whats == ["RECORDED", "SENDING", "LOST", "SETTLED"]


def test_a_claim_is_no_change(store: PaymentStore) -> None:
    """Who holds no claim may write while somebody does; the claim stays."""
    record = add(store, **DUE)
    [claimed] = store.claim("worker", NOW_MS, LEASE_MS, 1)
    after, event = move_work(record, Work.RUNNING, Evidence(source="test"), NOW_MS)
    change = replace(moved(record), after=after, events=(event,))
    assert [result.saved for result in store.save([change])] == [Saved.SAVED]
    kept = store.get("pay_1")
    assert kept is not None
    assert (Work.RUNNING, "worker", claimed.fence) == (kept.work, kept.lease_owner, kept.fence)


def test_a_notice_is_told_once(store: PaymentStore) -> None:
    """A second notice with the same key is not new; a change that is refused tells nothing."""
    record = add(store)
    first = replace(moved(record, Trigger.SENDING), notices=(alert(record, "k"),))
    [result] = store.save([first])
    assert [notice.dedupe_key for notice in result.told] == ["k"]
    [stale] = store.save([replace(first, notices=(alert(record, "other"),))])
    again = replace(moved(first.after, Trigger.LOST), notices=(alert(record, "k"),))
    [repeated] = store.save([again])
    assert stale.told == repeated.told == ()
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert posted.notice == alert(record, "k")


def test_the_outbox_is_read_until_it_is_sent(store: PaymentStore) -> None:
    """What is put off comes back later; what was accepted does not, and stays known."""
    record = add(store)
    store.save([replace(moved(record, Trigger.SENDING), notices=(alert(record, "k"),))])
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9)
    assert store.outbox(Topic.BUDGET, NOW_MS, 9) == []
    store.put_off(posted.number, NOW_MS + 10)
    assert store.outbox(Topic.ALERT, NOW_MS + 9, 9) == []
    [again] = store.outbox(Topic.ALERT, NOW_MS + 10, 9)
    assert again.attempts == 1
    store.mark_sent(again.number, NOW_MS + 10)
    assert store.outbox(Topic.ALERT, NOW_MS + 99, 9) == []


def test_one_payers_payments_alone(store: PaymentStore) -> None:
    """Of a store that several share: what is due, and what is to be told, of one of them."""
    mine, whose = add(store, "1", **DUE), Whose("acme", payment().payer)
    add(store, "2", payer="0xother", **DUE)
    add(store, "3", tenant="umbrella", **DUE)
    changes = [
        replace(moved(record, Trigger.SENDING), notices=(alert(record, record.payment_id),))
        for record in store.page(PaymentQuery())
    ]
    store.save(changes)
    [posted] = store.outbox(Topic.ALERT, NOW_MS, 9, whose)
    assert posted.notice.payment_id == mine.payment_id
    assert [each.payment_id for each in store.claim("w", NOW_MS, LEASE_MS, 9, whose)] == ["pay_1"]
    assert store.claim("w", NOW_MS, LEASE_MS, 9, whose) == []
    assert len(store.outbox(Topic.ALERT, NOW_MS, 9)) == 3
    assert len(store.claim("w", NOW_MS, LEASE_MS, 9)) == 2


def test_what_is_held_is_what_is_open_under_a_reservation(store: PaymentStore) -> None:
    """By id and page by page; not what is final, what has none, or what another pays."""
    held = {"budget_state": BudgetState.RESERVED, "budget_ref": "r"}
    whose = Whose("acme", payment().payer)
    for name in "4123":
        add(store, name, **held)
    add(store, "5")
    add(store, "6", payer="0xother", **held)
    add(store, "7", tenant="umbrella", **held)
    unknown = store.get("pay_2"), store.get("pay_3")
    for record, last in zip(unknown, (Trigger.LOST, Trigger.SETTLED), strict=True):
        assert record is not None
        store.save([moved(record, Trigger.SENDING, last)])
    first = store.held(whose, "", 2)
    assert [each.payment_id for each in first] == ["pay_1", "pay_2"]
    assert [each.payment_id for each in store.held(whose, "pay_2", 2)] == ["pay_4"]
    assert store.held(whose, "pay_4", 2) == []


def test_lists_and_tallies(store: PaymentStore) -> None:
    """The newest first, filtered, page by page; and how many there are of each."""
    for number in range(5):
        add(store, str(number), created_at_ms=NOW_MS + number // 2)
    settled = moved(store.page(PaymentQuery(limit=1))[0], Trigger.SENDING, Trigger.SETTLED)
    store.save([settled])
    names: list[str] = []
    before = None
    while page := store.page(PaymentQuery(tenant="acme", before=before, limit=2)):
        names += [record.payment_id for record in page]
        before = (page[-1].created_at_ms, page[-1].payment_id)
    assert names == ["pay_4", "pay_3", "pay_2", "pay_1", "pay_0"]
    assert store.page(PaymentQuery(tenant="nobody")) == []
    assert [settled.after] == store.page(PaymentQuery(money=Money.SETTLED))
    assert len(store.page(PaymentQuery(disposition=Disposition.OPEN, money=Money.RECORDED))) == 4
    assert {
        Tally(Money.RECORDED, Disposition.OPEN, 4),
        Tally(Money.SETTLED, Disposition.OPEN, 1),
    } == set(store.tallies())


def told(store: PaymentStore, *names: str, payment: str = "1") -> list[int]:
    """Keep a payment with alerts of these names; return their numbers."""
    record = add(store, payment)
    notices = tuple(alert(record, f"{payment}:{name}") for name in names)
    store.save([replace(moved(record, Trigger.SENDING), notices=notices)])
    found = store.notices(NoticeQuery(payment_id=record.payment_id))
    assert [one.notice for one in found] == list(notices)
    return [one.number for one in found]


def leased(store: PaymentStore, owner: str = "a", at_ms: int = NOW_MS, limit: int = 9) -> list[int]:
    return [one.number for one in store.lease_notices(Topic.ALERT, owner, at_ms, LEASE_MS, limit)]


def test_entries_of_one_payment_are_leased_in_order(store: PaymentStore) -> None:
    """The second waits for the first, other payments do not; a limit cuts, oldest first."""
    first, second = told(store, "a", "b")
    [other] = told(store, "a", payment="2")
    assert leased(store, limit=1) == [first]
    assert leased(store, "b") == [other]
    assert leased(store, "c") == []
    store.put_off(first, NOW_MS + 10, "HTTP 500")
    assert leased(store) == []
    assert leased(store, at_ms=NOW_MS + 10) == [first]
    store.mark_sent(first, NOW_MS + 10)
    [after] = store.lease_notices(Topic.ALERT, "a", NOW_MS + 10, LEASE_MS, 9)
    assert (after.number, after.attempts, after.reason) == (second, 0, None)
    assert store.lease_notices(Topic.BUDGET, "a", NOW_MS + 10, LEASE_MS, 9) == []


def test_a_lease_ends_by_time_or_is_given_back(store: PaymentStore) -> None:
    """Whoever died is followed by another; nobody else's lease is given back."""
    numbers = told(store, "a")
    assert leased(store) == numbers
    assert store.outbox(Topic.ALERT, NOW_MS, 9) == []
    store.give_back_notices("b")
    assert leased(store, "b", NOW_MS + LEASE_MS - 1) == []
    assert leased(store, "b", NOW_MS + LEASE_MS) == numbers
    store.give_back_notices("b")
    [again] = store.lease_notices(Topic.ALERT, "c", NOW_MS, LEASE_MS, 9)
    assert (again.number, again.attempts) == (numbers[0], 0)


def test_what_is_parked_holds_up_nobody(store: PaymentStore) -> None:
    """It is told of once, is found by a list, and comes back when somebody revives it."""
    first, second = told(store, "a", "b")
    record = store.get("pay_1")
    assert record is not None
    assert store.park(first, NOW_MS + 1, "HTTP 400", [alert(record, "parked")]) == (
        alert(record, "parked"),
    )
    assert store.park(first, NOW_MS + 2, "again", [alert(record, "other")]) == ()
    assert leased(store) == [second]
    [parked] = store.notices(NoticeQuery(parked=True))
    assert (parked.number, parked.attempts, parked.parked_at_ms, parked.reason) == (
        *(first, 1, NOW_MS + 1, "HTTP 400"),
    )
    assert first not in [one.number for one in store.notices(NoticeQuery(parked=False))]
    assert store.revive(first, NOW_MS + 5)
    assert store.notices(NoticeQuery(parked=True)) == []
    assert leased(store, at_ms=NOW_MS + 4) == []
    [again] = store.lease_notices(Topic.ALERT, "a", NOW_MS + 5, LEASE_MS, 1)
    assert (again.number, again.attempts, again.reason) == (first, 0, "HTTP 400")


def test_what_was_accepted_stays_accepted(store: PaymentStore) -> None:
    """A sender that comes back late with a failure changes nothing; nor does an operator."""
    record_number, dismissed = told(store, "a", "b")
    assert leased(store) == [record_number]
    store.mark_sent(record_number, NOW_MS)
    store.put_off(record_number, NOW_MS, "late")
    assert store.park(record_number, NOW_MS, "late") == ()
    assert not store.revive(record_number, NOW_MS)
    assert not store.dismiss(record_number, NOW_MS, "late")
    assert store.dismiss(dismissed, NOW_MS, "nobody needs it")
    assert not store.dismiss(dismissed, NOW_MS, "nobody needs it")
    assert leased(store, at_ms=NOW_MS + LEASE_MS) == []
    assert store.notices(NoticeQuery()) == []


def test_open_entries_are_listed_page_by_page(store: PaymentStore) -> None:
    numbers = told(store, "a", "b", "c")
    [first, second] = store.notices(NoticeQuery(topic=Topic.ALERT, limit=2))
    assert [first.number, second.number] == numbers[:2]
    [third] = store.notices(NoticeQuery(after=second.number))
    assert third.number == numbers[2]
    assert store.notices(NoticeQuery(topic=Topic.FUNDING)) == []
    assert store.notices(NoticeQuery(payment_id="pay_9")) == []


def test_a_tally_follows_every_change_and_no_other(store: PaymentStore) -> None:
    """Of two tenants together; a change that was refused counts nothing, nor does a replay."""
    first, _ = add(store, "1"), add(store, "2", tenant="umbrella")
    assert store.add(first, recorded(first)) == (first, False)
    sent = moved(first, Trigger.SENDING)
    assert store.save([sent, sent])[1].saved is Saved.STALE
    noted = replace(sent.after, version=sent.after.version + 1, checks=9)
    store.save([Change(noted, sent.after.version)])
    assert set(store.tallies()) == {
        Tally(Money.RECORDED, Disposition.OPEN, 1),
        Tally(Money.SUBMITTING, Disposition.HELD, 1),
    }


def test_one_transfer_pays_one_payment_back(store: PaymentStore) -> None:
    """The first that is free is taken with the change; where none is, nothing is saved."""
    one, two, three = (add(store, name) for name in "123")
    first, second = (Transfer("eip155:1", "0xt", index) for index in (4, 6))

    def paid_back(record: Any, *refunds: Transfer) -> Any:
        change = replace(moved(record, Trigger.SENDING), refunds=refunds)
        return replace(change, notices=(alert(record, record.payment_id),))

    [result] = store.save([paid_back(one, first)])
    assert result.saved is Saved.SAVED
    [result] = store.save([paid_back(two, first)])
    assert (result.saved, result.told) == (Saved.TAKEN, ())
    assert store.get("pay_2") == two
    assert len(store.events("pay_2")) == 1
    [result] = store.save([replace(paid_back(two, first, second), version=9)])
    assert result.saved is Saved.STALE  # and what was not saved took nothing
    [result] = store.save([paid_back(two, first, second)])
    assert result.saved is Saved.SAVED
    [result] = store.save([paid_back(three, first, second)])
    assert result.saved is Saved.TAKEN
    other = replace(second, network="eip155:2")
    [result] = store.save([paid_back(three, second, other)])
    assert result.saved is Saved.SAVED
