"""Real servers, real agents, real deaths: charges are commits, and at most one for a mandate.

The rule that lives here: after every run the payment service and the ledger are compared, and
while nobody knows whether a payment was made, its budget is held.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bursar import CyclesClient, CyclesConfig
from bursar.testing.payments import Charged, Mishap, PaymentService
from conftest import wait_until
from e2e.accounts import Account, balances, open_account
from e2e.servers import Server, Servers

AGENT = Path(__file__).with_name("agent.py")
PRICE, BUDGET = 500_000_000, 100_000_000_000
ENDS_WITHIN_S = 60
MANDATE = {
    "transaction_id": "order", "amount_value": "5", "currency": "USD",
    "payee_website": "shop.example",
}  # fmt: skip
OPEN = {**MANDATE, "transaction_id": "checkout-{n}", "open_mandate_hash": "open-mandate"}
KINDS = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all runs; each has a tenant of its own."""
    with Servers(tmp_path_factory.mktemp("served")) as servers:
        yield servers.start(environment={"BURSAR_SWEEP_INTERVAL_MS": "100"})


@dataclass
class Shop:
    """A tenant, a payment service, and the agents that pay."""

    server: Server
    account: Account
    service: PaymentService
    folder: Path
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, **orders: Any) -> subprocess.Popen[str]:
        """Start an agent that waits for its signal."""
        plain = {
            "url": self.server.url, "key": self.account.secret, "tenant": self.account.tenant,
            "journal": str(self.folder / "journal"), "service": self.service.url,
            "mandate": MANDATE, "run_id": "run", "reference": "order", "workers": 1, "first": 0,
        }  # fmt: skip
        with (self.folder / f"agent-{len(self.agents)}.log").open("w") as log:
            agent = subprocess.Popen(
                [sys.executable, str(AGENT), json.dumps({**plain, **orders})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.agents.append(agent)
        return agent

    def go(self, *agents: subprocess.Popen[str]) -> list[dict[str, Any]]:
        """Let agents begin at once; return how their payments ended, unless they were killed."""
        for agent in agents:
            assert agent.stdout is not None
            assert agent.stdout.readline() == "ready\n", self.said()
        for agent in agents:
            assert agent.stdin is not None
            agent.stdin.write("go\n")
            agent.stdin.flush()
        ended: list[dict[str, Any]] = []
        for agent in agents:
            printed, _ = agent.communicate(timeout=ENDS_WITHIN_S)
            assert agent.returncode in (0, KILLED), self.said()
            ended += json.loads(printed) if agent.returncode == 0 else [{"ended": "killed"}]
        return ended

    def run(self, **orders: Any) -> dict[str, Any]:
        """Run one agent with one worker and return how its payment ended."""
        (ended,) = self.go(self.start(**orders))
        return ended

    def said(self) -> str:
        """Return what the agents wrote to standard error."""
        return "\n".join(log.read_text() for log in self.folder.glob("*.log"))

    @property
    def money(self) -> dict[str, int]:
        """What the ledger says is spent and held, in payments."""
        with self.account.connect(self.server) as connection:
            found = balances(connection, self.account.tenant)[""]
        return {"spent": found["spent"] // PRICE, "held": found["reserved"] // PRICE}

    @property
    def commits(self) -> int:
        """How many payments the ledger has recorded."""
        with CyclesClient(CyclesConfig(self.server.url, self.account.secret)) as client:
            found = client.typed.iter_reservations(status="COMMITTED")
            return sum(1 for _ in found)

    def is_settled(self, charges: int = 1) -> None:
        """As many commits as charges, nothing held."""
        assert len(self.service.charges) == charges
        assert self.commits == charges
        assert self.money == {"spent": charges, "held": 0}

    def is_held(self, charges: int = 1) -> None:
        """Money may have moved; the budget is held and nothing is recorded."""
        assert len(self.service.charges) == charges
        assert self.commits == 0
        assert self.money == {"spent": 0, "held": 1}


@pytest.fixture
def shop(server: Server, tmp_path: Path) -> Iterator[Shop]:
    with opened(server, tmp_path) as made:
        yield made


@contextlib.contextmanager
def opened(server: Server, folder: Path, budget: int = BUDGET) -> Iterator[Shop]:
    """Open a shop, and end its agents."""
    account = open_account(server, {"": budget}, unit="USD_MICROCENTS")
    with PaymentService() as service:
        made = Shop(server, account, service, folder)
        try:
            yield made
        finally:
            for agent in made.agents:
                agent.kill()
                agent.communicate()


def fifty(shop: Shop, **orders: Any) -> list[dict[str, Any]]:
    """Let five processes with ten workers each pay at once, threads and tasks."""
    agents = [
        shop.start(workers=10, first=10 * n, asynchronous=n % 2 == 1, **orders) for n in range(5)
    ]
    ended = shop.go(*agents)
    assert len(ended) == 50
    return ended


def ends(ended: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one.get("code", one["ended"]) for one in ended)


@pytest.mark.parametrize(
    ("mandate", "run_id", "codes"),
    [
        (MANDATE, "run", {"PRESENTED_ELSEWHERE", "REPLAYED_SETTLED"}),
        (MANDATE, "run-{n}", {"IDEMPOTENCY_MISMATCH"}),
        (OPEN, "run", {"IDEMPOTENCY_MISMATCH"}),
        (OPEN, "run-{n}", {"IDEMPOTENCY_MISMATCH"}),
        (
            {**OPEN, "transaction_id": "checkout"}, "run",
            {"PRESENTED_ELSEWHERE", "REPLAYED_SETTLED"},
        ),
    ],
    ids=["same request", "own runs", "open, own checkouts", "open, own both", "open, same"],
)  # fmt: skip
def test_fifty_workers_present_one_mandate_at_once(
    shop: Shop, mandate: dict[str, str], run_id: str, codes: set[str]
) -> None:
    """One pays, by a service that charges whoever asks; the others are told why they do not."""
    found = ends(fifty(shop, mandate=mandate, run_id=run_id, keyed=False))
    assert found.pop("paid") == 1
    assert sum(found.values()) == 49
    assert set(found) <= codes
    shop.is_settled()


def test_fifty_mandates_and_a_budget_for_ten(server: Server, tmp_path: Path) -> None:
    """Ten are paid; what is denied never reaches the payment service."""
    with opened(server, tmp_path, budget=10 * PRICE) as shop:
        own = {**MANDATE, "transaction_id": "order-{n}"}
        found = ends(fifty(shop, mandate=own, keyed=False))
        assert found == {"paid": 10, "BUDGET_EXCEEDED": 40}
        shop.is_settled(10)


@KINDS
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_committing(shop: Shop, asynchronous: bool, when: str) -> None:
    """The journal has the commit, and the next process sends it; the ledger records it once."""
    options = {"settlement": "journal"}
    point = (when, "commitReservation")
    ended = shop.run(asynchronous=asynchronous, options=options, point=point, keyed=False)
    assert ended == {"ended": "killed"}
    assert len(list(shop.folder.rglob("journal/**/*.json"))) == 1
    if when == "before":
        shop.is_held()
        assert shop.run(keyed=False)["ended"] == "denied"
        shop.is_settled()  # that process took the journal over when it closed
    assert shop.run(replay=True) == {"ended": "replayed", "left": 0}
    shop.is_settled()
    assert list(shop.folder.rglob("journal/**/*.json")) == []
    assert shop.run(keyed=False)["code"] == "REPLAYED_SETTLED"
    shop.is_settled()


@KINDS
def test_killed_between_charge_and_commit(shop: Shop, asynchronous: bool) -> None:
    """Held; nobody else pays; who resumes with the key of the payment is not charged again."""
    options = {"settlement": "journal"}
    ended = shop.run(asynchronous=asynchronous, options=options, die="charged")
    assert ended == {"ended": "killed"}
    shop.is_held()
    assert shop.run(options=options)["code"] == "PRESENTED_ELSEWHERE"
    shop.is_held()
    resumed = shop.run(asynchronous=asynchronous, options={**options, "resume": True})
    assert resumed == {"ended": "paid"}
    shop.is_settled()


@KINDS
def test_killed_before_the_payment(shop: Shop, asynchronous: bool) -> None:
    """The reservation is there and nothing was paid; who resumes pays once."""
    ended = shop.run(asynchronous=asynchronous, point=("after", "createReservation"))
    assert ended == {"ended": "killed"}
    shop.is_held(charges=0)
    assert shop.run()["code"] == "PRESENTED_ELSEWHERE"
    assert shop.run(options={"resume": True}) == {"ended": "paid"}
    shop.is_settled()


@KINDS
@pytest.mark.parametrize("mishap", [Mishap.TIME_OUT, Mishap.HANG_UP, Mishap.HANG_UP_FIRST])
def test_the_service_does_not_answer(shop: Shop, asynchronous: bool, mishap: Mishap) -> None:
    """Held while unknown; asked later, the service says whether it charged."""
    charges = 0 if mishap is Mishap.HANG_UP_FIRST else 1
    shop.service.next(mishap)
    ended = shop.run(asynchronous=asynchronous, patience=1.0)
    assert ended["ended"] in ("ReadTimeout", "RemoteProtocolError")
    shop.is_held(charges)
    assert shop.run()["code"] == "PRESENTED_ELSEWHERE"
    shop.is_held(charges)
    assert shop.run(asynchronous=asynchronous, options={"resume": True}, ask=True) == {
        "ended": "paid"
    }
    shop.is_settled(charges)


def test_the_service_declines(shop: Shop) -> None:
    """Nothing was paid: released at once, and the mandate is used up."""
    shop.service.next(Mishap.DECLINE)
    assert shop.run() == {"ended": "ValueError"}
    shop.is_settled(0)
    assert shop.run()["code"] == "REPLAYED_SETTLED"
    shop.is_settled(0)


@KINDS
def test_the_ledger_dies_between_charge_and_commit(tmp_path: Path, asynchronous: bool) -> None:
    """The commit is journaled, and arrives when the ledger is back."""
    with Servers(tmp_path) as servers:
        server = servers.start()

        def kill(charged: Charged) -> None:
            server.kill()

        with opened(server, tmp_path) as shop:
            shop.service.on_charge = kill
            ended = shop.run(
                asynchronous=asynchronous, options={"settlement": "journal"}, flush=0.1
            )
            assert ended["ended"] == "uncertain"
            assert ended["journaled"]
            shop.server = servers.start("--port", str(server.port))
            shop.is_held()
            assert shop.run(replay=True) == {"ended": "replayed", "left": 0}
            shop.is_settled()


def test_a_lease_that_ends_while_the_agent_is_dead(shop: Shop) -> None:
    """The journal records the payment all the same, as an event, and once."""
    options = {"settlement": "journal", "ttl_ms": 1_000}
    point = ("before", "commitReservation")
    assert shop.run(options=options, point=point) == {"ended": "killed"}
    shop.is_held()
    wait_until(lambda: shop.money == {"spent": 0, "held": 0})
    for _ in range(2):
        assert shop.run(replay=True) == {"ended": "replayed", "left": 0}
        assert shop.money == {"spent": 1, "held": 0}
    assert len(shop.service.charges) == 1
