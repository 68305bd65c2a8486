"""Fifty clients at once: a budget is never oversubscribed, and a race has exactly one winner."""

import asyncio
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import httpx2
import pytest

from bursar.ledger.audit import audit
from bursar.storage.sqlite.reader import SqliteReader
from e2e.accounts import Account, balances, open_account
from e2e.connections import Connection, Reply
from e2e.servers import Server, Servers

CLIENTS = 50
ALLOCATED = 1_000
ESTIMATE = 37
ROUNDS = 6
RACES = 25
LEASE_MS = 1_000
EDGE_MS = (-300, 100)  # around the end of their leases the late settlements are spread
SETTLED_WITHIN_S = 60

Job = Callable[[Connection], Reply]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that looks for ended leases all the time; its ledger is audited at the end."""
    with Servers(tmp_path_factory.mktemp("concurrency")) as servers:
        started = servers.start(environment={"BURSAR_SWEEP_INTERVAL_MS": "10"})
        yield started
        assert started.stop() == 0, started.logged()
        reader = SqliteReader(started.store)
        assert audit(reader).findings == ()
        reader.close()


@pytest.fixture
def account(server: Server) -> Account:
    return open_account(server, {"": ALLOCATED})


def reservation(account: Account, key: str, **more: object) -> dict[str, object]:
    return {
        "idempotency_key": key,
        "subject": {"tenant": account.tenant},
        "action": {"kind": "llm", "name": "m"},
        "estimate": {"unit": "TOKENS", "amount": ESTIMATE},
        **more,
    }


def settlement(verb: str, key: str) -> dict[str, object]:
    """Return the body of a commit of the whole estimate, or of a release."""
    actual = {"actual": {"unit": "TOKENS", "amount": ESTIMATE}} if verb == "commit" else {}
    return {"idempotency_key": key, **actual}


def settling(path: str, verb: str, key: str) -> Job:
    """Return a job that settles the reservation at `path`."""
    return lambda connection: connection.post(f"{path}/{verb}", settlement(verb, key))


def at_once(server: Server, account: Account, jobs: Sequence[Job]) -> list[Reply]:
    """Do every job on a thread and a connection of its own, all let go at the same moment."""
    gate = threading.Barrier(len(jobs))
    replies: dict[int, Reply] = {}

    def run(number: int, job: Job) -> None:
        with account.connect(server) as connection:
            connection.get("/health/live")  # connects
            gate.wait(SETTLED_WITHIN_S)
            replies[number] = job(connection)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [replies[number] for number in range(len(jobs))]


def amounts(server: Server, account: Account) -> dict[str, int]:
    with account.connect(server) as connection:
        return balances(connection, account.tenant)[""]


def test_one_budget_is_never_oversubscribed(server: Server, account: Account) -> None:
    """Fifty clients reserve until they are denied: what fits is held, not one unit more."""
    granted: list[str] = []

    def until_denied(connection: Connection) -> Reply:
        while True:
            reply = connection.post("/v1/reservations", reservation(account, secrets.token_hex(8)))
            if reply.status != 200:
                return reply
            granted.append(reply.json()["reservation_id"])

    denied = at_once(server, account, [until_denied] * CLIENTS)
    assert {(reply.status, reply.json()["error"]) for reply in denied} == {(409, "BUDGET_EXCEEDED")}
    assert len(granted) == len(set(granted)) == ALLOCATED // ESTIMATE
    found = amounts(server, account)
    assert found["reserved"] == len(granted) * ESTIMATE
    assert found["remaining"] == ALLOCATED % ESTIMATE


def test_fifty_asynchronous_clients_share_what_there_is(server: Server, account: Account) -> None:
    """While everybody reserves, commits and releases, no answer ever shows an overspent budget."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    spent, lowest = 0, ALLOCATED

    async def agent(client: httpx2.AsyncClient) -> None:
        nonlocal spent, lowest
        for _ in range(ROUNDS):
            body = reservation(account, secrets.token_hex(8))
            reply = await client.post("/v1/reservations", json=body)
            if reply.status_code == 409:
                assert reply.json()["error"] == "BUDGET_EXCEEDED"
                continue
            held = reply.json()
            lowest = min(lowest, held["balances"][0]["remaining"]["amount"])
            actual, verb = 0, chance.choice(("commit", "release"))
            more: dict[str, object] = {}
            if verb == "commit":
                actual = chance.randrange(ESTIMATE)
                more = {"actual": {"unit": "TOKENS", "amount": actual}}
            path = f"/v1/reservations/{held['reservation_id']}/{verb}"
            settled = await client.post(path, json={"idempotency_key": "once", **more})
            assert settled.status_code == 200, settled.text
            spent += actual

    async def all_agents() -> None:
        async with httpx2.AsyncClient(
            base_url=server.url,
            headers=account.headers,
            limits=httpx2.Limits(max_connections=CLIENTS),
            timeout=60,
        ) as client:
            await asyncio.gather(*(agent(client) for _ in range(CLIENTS)))

    asyncio.run(all_agents())
    assert lowest >= 0
    assert lowest < ESTIMATE, "the budget was never contended for, so nothing was tested"
    found = amounts(server, account)
    assert (found["spent"], found["reserved"]) == (spent, 0)
    assert found["spent"] <= ALLOCATED


def test_one_key_makes_one_reservation(server: Server, account: Account) -> None:
    """Fifty requests with one key at one moment: one hold, and the same answer for everybody."""
    body = reservation(account, "the-same")
    replies = at_once(server, account, [lambda c: c.post("/v1/reservations", body)] * CLIENTS)
    assert {reply.status for reply in replies} == {200}
    assert len({reply.lasting for reply in replies}) == 1
    assert amounts(server, account)["reserved"] == ESTIMATE


def test_one_key_with_two_payloads_has_one_winner(server: Server, account: Account) -> None:
    """Whoever is first owns the key; everybody with the other payload is told."""
    other = reservation(account, "the-same", ttl_ms=5_000)
    jobs: list[Job] = [
        lambda c: c.post("/v1/reservations", reservation(account, "the-same")),
        lambda c: c.post("/v1/reservations", other),
    ] * (CLIENTS // 2)
    replies = at_once(server, account, jobs)
    won = {index % 2 for index, reply in enumerate(replies) if reply.status == 200}
    assert len(won) == 1
    lost = [reply for index, reply in enumerate(replies) if index % 2 not in won]
    assert {reply.json()["error"] for reply in lost} == {"IDEMPOTENCY_MISMATCH"}
    assert len(lost) == CLIENTS // 2
    assert amounts(server, account)["reserved"] == ESTIMATE


def test_a_reservation_settles_once(server: Server, account: Account) -> None:
    """Two commits and two releases of one reservation, all with keys of their own: one wins."""
    won: Counter[str] = Counter()
    for number in range(RACES):
        with account.connect(server) as connection:
            made = connection.post("/v1/reservations", reservation(account, f"race-{number}"))
        path = f"/v1/reservations/{made.json()['reservation_id']}"
        verbs = ["commit", "release", "commit", "release"]
        jobs = [settling(path, verb, key) for verb, key in zip(verbs, "abcd", strict=True)]
        replies = at_once(server, account, jobs)
        outcomes = Counter(reply.status for reply in replies)
        assert outcomes == {200: 1, 409: 3}
        for verb, reply in zip(verbs, replies, strict=True):
            if reply.status == 200:
                won[verb] += 1
            else:
                assert reply.json()["error"] == "RESERVATION_FINALIZED"
    print(won)
    found = amounts(server, account)
    assert (found["spent"], found["reserved"]) == (won["commit"] * ESTIMATE, 0)


def test_settling_at_the_end_of_a_lease_has_one_outcome(server: Server) -> None:
    """Commits and releases that arrive with the sweep: each reservation ends once, for all."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    account = open_account(server, {"": ESTIMATE * CLIENTS})
    ends: Counter[str] = Counter()

    def late(number: int, verb: str, offset_s: float) -> Job:
        def run(connection: Connection) -> Reply:
            began = time.monotonic()
            body = reservation(account, f"late-{number}", ttl_ms=LEASE_MS, grace_period_ms=0)
            made = connection.post("/v1/reservations", body).json()
            path = f"/v1/reservations/{made['reservation_id']}"
            time.sleep(max(0.0, began + LEASE_MS / 1_000 + offset_s - time.monotonic()))
            reply = connection.post(f"{path}/{verb}", settlement(verb, "k"))
            ends[f"{verb} {reply.status}"] += 1
            if reply.status == 200:
                assert connection.get(path).json()["status"] in ("COMMITTED", "RELEASED")
                return reply
            assert (reply.status, reply.json()["error"]) == (410, "RESERVATION_EXPIRED")
            deadline = time.monotonic() + SETTLED_WITHIN_S
            while (row := connection.get(path)).status != 410:
                assert row.json()["status"] == "ACTIVE", "it is over, and not yet swept"
                assert time.monotonic() < deadline
            return reply

        return run

    jobs = [
        late(number, chance.choice(("commit", "release")), chance.uniform(*EDGE_MS) / 1_000)
        for number in range(CLIENTS)
    ]
    at_once(server, account, jobs)
    print(ends)
    assert sum(ends.values()) == CLIENTS
    assert {name.split()[1] for name in ends} == {"200", "410"}, "one side was never met"
    found = amounts(server, account)
    assert (found["spent"], found["reserved"]) == (ends["commit 200"] * ESTIMATE, 0)
