"""The log: a chain that breaks wherever it is touched, and that budgets can be rebuilt from."""

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from random import Random

import pytest

from bursar.core import commands as c
from bursar.core.entry import Entry, Reply, budget_state, digest, seal
from bursar.core.outcomes import Changes, Expired
from bursar.core.state import GENESIS, Head, Reservation
from bursar.vocabulary import OveragePolicy, ReservationStatus, Unit
from core.audit import audited
from core.table import play, read_row, scenarios
from core.world import START_MS, World

[STORY] = scenarios("""
== every kind of command
create_tenant acme
create_budget acme 1000 limit=50
create_budget acme/agent:bot 500
create_budget acme 20 unit=TOKENS
create_budget acme 7 unit=CREDITS period=1s
create_key k
update_tenant acme extensions=3
update_budget acme limit=60
update_key k name=bot
create_policy p at=agent:* caps=5 reserves=9
update_policy p caps=6
reserve a 300 at=acme/agent:bot
reserve b 100
reserve c 10 unit=TOKENS
reserve d 10 dry_run=yes
decide 5
extend a 10s
tick 1s
roll acme unit=CREDITS ended=0s start=1s end=2s
commit a 350
release b
debit e 50
fund acme CREDIT 5
freeze acme unit=TOKENS
unfreeze acme unit=TOKENS
update_budget acme unit=CREDITS period=never
tick 80s
expire c
close_budget acme unit=TOKENS
revoke_key k
reserve f 10
begin_bulk k rows=a
finish_bulk k done=a
begin_bulk l rows=a
finish_bulk l done=a of=budgets
close_tenant acme
""")


def story() -> World:
    return play(STORY)


ENTRY = Entry(
    tenant="acme",
    seq=7,
    at_ms=1_700_000_000_000,
    verb="Commit",
    endpoint="commit",
    key="k",
    fingerprint="f" * 64,
    actor="api_key",
    key_id="key_1",
    request_id="req",
    trace_id="0" * 32,
    status=200,
    body=b"{}",
    reservation_id="r",
    lease_expires_at_ms=1_700_000_060_000,
    changes="{}",
    prev_hash="a" * 64,
    entry_hash="",
)
HASHED = [part.name for part in fields(Entry) if part.name != "entry_hash"]


def altered(value: object) -> Iterator[object]:
    """Yield other values of the same kind, and the absence of one."""
    if isinstance(value, int):
        yield from (value + 1, -value, int(f"1{value}"))
    elif isinstance(value, bytes):
        yield from (value + b" ", b"", value[:-1])
    else:
        yield from (f"{value} ", "", str(value)[:-1])
    yield None


@pytest.mark.parametrize("name", HASHED)
def test_any_field_altered_breaks_the_chain(name: str) -> None:
    for value in altered(getattr(ENTRY, name)):
        assert digest(ENTRY) != digest(replace(ENTRY, **{name: value})), value


@pytest.mark.parametrize(("left", "right"), list(pairwise(HASHED)))
def test_no_two_entries_share_an_encoding(left: str, right: str) -> None:
    """Moving a character over a field's border, or swapping two neighbours, is seen."""
    one, two = str(getattr(ENTRY, left)), str(getattr(ENTRY, right))
    moved = replace(ENTRY, **{left: one + two[:1], right: two[1:]})
    swapped = replace(ENTRY, **{left: two, right: one})
    absent = [
        replace(ENTRY, **{left: first, right: second})
        for first, second in ((None, ""), ("", None), (None, "None"), ("None", None))
    ]
    digests = {digest(entry) for entry in (ENTRY, moved, swapped, *absent)}
    assert len(digests) == 7


def test_a_written_log_still_verifies_tomorrow() -> None:
    """The digest of one entry is pinned: another encoding would disown every stored ledger."""
    assert digest(ENTRY) == "5fb647103c9230b8e66fc177b382bf2bf8f59c0fec221afa173435fc0379db88"


def test_every_accepted_command_is_one_entry_of_a_whole_chain() -> None:
    world = story()
    verbs = [entry.verb for entry in world.log("acme")]
    accepted = [row for row in STORY.rows if row.verb not in ("given", "tick")]
    assert len(accepted) == len(verbs)
    assert {kind.__name__ for kind in c.AnyCommand.__args__} == set(verbs)
    assert list(range(1, len(verbs) + 1)) == [entry.seq for entry in world.log("acme")]


def test_an_entry_that_is_dropped_or_moved_breaks_the_chain() -> None:
    entries = story().log("acme")
    assert follows(entries)
    for place in range(len(entries) - 1):
        assert not follows(entries[:place] + entries[place + 1 :])
        swapped = list(entries)
        swapped[place : place + 2] = reversed(entries[place : place + 2])
        assert not follows(swapped)


def follows(entries: list[Entry]) -> bool:
    ends = [GENESIS, *(Head(entry.seq, entry.entry_hash, entry.at_ms) for entry in entries)]
    return all(
        (end.seq + 1, end.entry_hash) == (entry.seq, entry.prev_hash)
        and digest(entry) == entry.entry_hash
        for end, entry in zip(ends, entries, strict=False)
    )


def test_an_entry_says_who_asked_and_what_was_answered() -> None:
    origin = c.Origin(c.ActorType.ADMIN, "key_1", "req_1", "f" * 32)
    identity = c.Idempotency("commit", "k", "digest")
    command = c.Expire(tenant="acme", reservation_id="r", origin=origin, idempotency=identity)
    row = Reservation(
        tenant="acme",
        reservation_id="r",
        status=ReservationStatus.EXPIRED,
        unit=Unit.TOKENS,
        estimate_amount=5,
        scope_path="tenant:acme",
        budgeted_scopes=("tenant:acme",),
        overage_policy=OveragePolicy.REJECT,
        created_at_ms=1,
        expires_at_ms=2,
        grace_ms=3,
        extensions_max=4,
        idempotency_key="k",
        subject="{}",
        action="{}",
    )
    reply = Reply(200, b"{}", "r", 99)
    entry = seal(
        Head(4, "e" * 64, 10), command, Changes(Expired(row), reservations=(row,)), reply, 11
    )
    assert (entry.seq, entry.prev_hash, entry.at_ms, entry.verb) == (5, "e" * 64, 11, "Expire")
    assert (entry.endpoint, entry.key, entry.fingerprint) == ("commit", "k", "digest")
    assert (entry.actor, entry.key_id, entry.request_id) == ("admin", "key_1", "req_1")
    assert (entry.trace_id, entry.status, entry.body) == ("f" * 32, 200, b"{}")
    assert (entry.reservation_id, entry.lease_expires_at_ms) == ("r", 99)
    assert json.loads(entry.changes) == {
        "reservations": [["r", "EXPIRED", "TOKENS", 5, None, 2, "tenant:acme", ["tenant:acme"]]]
    }


def test_what_changed_is_recorded_compactly_and_as_it_is_then() -> None:
    """Any other spelling of the same states would give other hashes."""
    [scenario] = scenarios("""
        == one of each kind
        create_tenant acme name=Größe
        create_budget acme 1000 limit=50
        create_key k may=balances:read reaches=agent:*
        reserve a 300
        commit a 350
        update_tenant acme overage=AWO ttl=5s name=Acme
        update_budget acme limit=70 overage=REJECT
        update_key k may=none
        close_tenant acme
        create_tenant other
        create_policy p as=other at=agent:* name=é priority=2 caps=5 overage=AWO ttl=1s \
            extensions=3 commits=4 from=1s
    """)
    world = play(scenario)
    changes = [entry.changes for entry in world.log("acme")]
    secret = "60e05bd1b195af2f94112fa7197a5c88289058840ce7c6df9693756bc6250f55"
    assert changes[0] == (
        '{"tenants":[["acme","ACTIVE","Größe",null,60000,3600000,10,"AUTO_RELEASE"]]}'
    )
    assert changes[1] == ('{"budgets":[["tenant:acme","USD_MICROCENTS","ACTIVE",1000,0,0,0,50,0]]}')
    assert changes[2] == (
        '{"keys":[["k","ACTIVE","cyc_live_abcde",["balances:read"],["agent:*"],'
        f'"{secret}","k",null,null,[1700000000000,1707776000000,null],null]]}}'
    )
    assert changes[3] == (
        '{"budgets":[["tenant:acme","USD_MICROCENTS","ACTIVE",1000,300,0,0,50,0]],"reservations":'
        f'[["a","ACTIVE","USD_MICROCENTS",300,null,{START_MS + 60_000},"tenant:acme",'
        '["tenant:acme"]]]}'
    )
    assert changes[4] == (
        '{"budgets":[["tenant:acme","USD_MICROCENTS","ACTIVE",1000,0,350,0,50,0]],"reservations":'
        f'[["a","COMMITTED","USD_MICROCENTS",300,350,{START_MS + 60_000},"tenant:acme",'
        '["tenant:acme"]]]}'
    )
    assert changes[5] == (
        '{"tenants":[["acme","ACTIVE","Acme","ALLOW_WITH_OVERDRAFT",5000,3600000,10,'
        '"AUTO_RELEASE"]],"asked":{"name":"Acme","overage_policy":"ALLOW_WITH_OVERDRAFT",'
        '"ttl_default_ms":5000}}'
    )
    assert changes[6] == (
        '{"budgets":[["tenant:acme","USD_MICROCENTS","ACTIVE",1000,0,350,0,70,0]],'
        '"asked":{"overdraft_limit":70,"overage_policy":"REJECT"}}'
    )
    assert changes[7] == (
        '{"keys":[["k","ACTIVE","cyc_live_abcde",[],["agent:*"],'
        f'"{secret}","k",null,null,[1700000000000,1707776000000,null],null]],'
        '"asked":{"permissions":[]}}'
    )
    assert changes[8] == (
        '{"budgets":[["tenant:acme","USD_MICROCENTS","CLOSED",1000,0,350,0,70,0]],'
        '"tenants":[["acme","CLOSED","Acme","ALLOW_WITH_OVERDRAFT",5000,3600000,10,'
        '"AUTO_RELEASE"]],"keys":[["k","REVOKED","cyc_live_abcde",[],["agent:*"],'
        f'"{secret}","k",null,null,[1700000000000,1707776000000,1700000000000],'
        '"tenant_closed"]]}'
    )
    assert world.log("other")[1].changes == (
        '{"policies":[["p","ACTIVE","é",null,"agent:*",2,"{\\"max_tokens\\":5}",'
        f'"ALLOW_WITH_OVERDRAFT",[1000,null,3],[null,4],[{START_MS + 1_000},null]]]}}'
    )


def test_folding_the_recorded_states_gives_the_current_budgets() -> None:
    world = story()
    folded: dict[tuple[str, str], list[object]] = {}
    for entry in world.log("acme"):
        for state in json.loads(entry.changes).get("budgets", ()):
            folded[state[0], state[1]] = state
    current = {
        (budget.scope, budget.unit.value): budget_state(budget)
        for budget in world.tables.budgets.values()
    }
    assert current == folded
    assert len(current) == 4


@pytest.mark.parametrize("seed", range(5))
def test_folding_a_random_log_gives_the_current_records(seed: int) -> None:
    """A budget or reservation that the log knows is as its last entry says."""
    world = audited(Random(seed), batches=100).world
    folded: dict[tuple[str, ...], list[object]] = {}
    for entry in world.log("acme"):
        changes = json.loads(entry.changes)
        folded |= {("budget", *state[:2]): state for state in changes.get("budgets", ())}
        folded |= {("row", state[0]): state for state in changes.get("reservations", ())}
    current = {
        ("budget", budget.scope, budget.unit.value): budget_state(budget)
        for budget in world.tables.budgets.values()
    } | {
        ("row", row.reservation_id): [
            row.reservation_id,
            row.status.value,
            row.unit.value,
            row.estimate_amount,
            row.charged_amount,
            row.expires_at_ms,
            row.scope_path,
            list(row.budgeted_scopes),
        ]
        for row in world.tables.reservations.values()
    }
    assert {where: current[where] for where in folded} == folded
    assert {where for where in current if where[0] == "row"} <= set(folded)


def test_the_same_commands_make_the_same_log_to_the_last_hash() -> None:
    first, second = story(), story()
    assert first.log("acme") == second.log("acme")
    assert first.image() == second.image()


def test_amounts_above_2_to_the_53_are_exact_in_the_log() -> None:
    [scenario] = scenarios("== large\ngiven budget acme allocated=MAX\ndebit e MAX-1")
    [entry] = play(scenario).log("acme")
    [state] = json.loads(entry.changes)["budgets"]
    assert state[3:6] == [2**63 - 1, 0, 2**63 - 2]
    assert read_row("debit e MAX-1").words == ["e", "MAX-1"]
