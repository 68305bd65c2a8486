"""Clients that load a server, remember what they were told, and know what must follow from it.

The rule that lives here: a client believes only answers. `Books` is the sum of what was
answered, kept apart from the server; a request without an answer, or with "I could not", is
`pending` until it was asked again, with the same key and the same bytes. Answers are checked
against the schemas when they are compared with the log, so that checking costs no load.
"""

import json
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from e2e.accounts import Account
from e2e.connections import Connection, Reply, Torn, Unanswered
from e2e.servers import Server

UNIT = "USD_MICROCENTS"
LEASE_MS = 3_000_000  # no lease may end within a test that takes a minute
ALLOCATED = 2**62  # amounts are far above 2**53, where floats are no longer exact
AMOUNT_MAX = 2**46
OPEN_MAX = 6
EXTENSIONS_MAX = 9
AGENTS = ("/agent:a", "/agent:b", "/agent:c")
BUDGETS = dict.fromkeys(("", *AGENTS), ALLOCATED)


class Failed(Exception):
    """The server answered that it could not do it (500)."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.body.decode())
        self.reply = reply


@dataclass(slots=True, eq=False)
class Asked:
    """One operation: what is sent, as often as it takes, and what was answered."""

    endpoint: str  # as the log names it
    key: str
    path: str
    body: bytes
    replies: list[Reply] = field(default_factory=list)
    checked: int = 0  # how many of them were compared with the schemas
    settle: Callable[[Reply], None] = lambda reply: None

    @property
    def pending(self) -> bool:
        """Whether nobody knows yet what became of it."""
        return not self.replies

    def send(self, connection: Connection) -> Reply:
        """Send it once; the first answer is entered in the books.

        Raises:
            Unanswered, Torn: no whole answer came.
            Failed: the server could not do it.
        """
        reply = connection.send("POST", self.path, self.body)
        if reply.status == 500:
            raise Failed(reply)
        self.replies.append(reply)
        if len(self.replies) == 1:
            assert reply.status in (200, 201), (self, reply)
            self.settle(reply)
        return reply


class Books:
    """What the budgets of a tenant must hold after everything that was answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts = {
            path: {"allocated": ALLOCATED, "reserved": 0, "spent": 0} for path in BUDGETS
        }

    def move(self, agent: str, **amounts: int) -> None:
        """Add amounts to an agent's budget and to the tenant's above it."""
        with self._lock:
            for path in ("", agent):
                for name, amount in amounts.items():
                    self._amounts[path][name] += amount

    def credit(self, agent: str, amount: int) -> None:
        """Raise the ceiling of one budget alone."""
        with self._lock:
            self._amounts[agent]["allocated"] += amount

    def balances(self) -> dict[str, dict[str, int]]:
        """Return the amounts as the server must show them."""
        with self._lock:
            return {
                path: {
                    **row,
                    "remaining": row["allocated"] - row["reserved"] - row["spent"],
                    "debt": 0,
                }
                for path, row in self._amounts.items()
            }


@dataclass(slots=True)
class _Lease:
    """A reservation that a client holds."""

    reservation_id: str
    agent: str
    estimate: int
    extensions: int = 0


class Client:
    """One agent's loop: it does something, waits for the answer, does the next thing."""

    def __init__(self, name: str, account: Account, books: Books, seed: str) -> None:
        self.asked: list[Asked] = []
        self.torn: list[Torn] = []
        self.failed: list[Failed] = []
        self._name = name
        self._account = account
        self._books = books
        self._random = random.Random(seed)
        self._leases: list[_Lease] = []

    def work(self, server: Server, stop: threading.Event) -> None:
        """Load the server until it is gone, cannot go on, or `stop` is set."""
        with self._account.connect(server, checked=False) as connection:
            while not stop.is_set():
                asked = self._next()
                self.asked.append(asked)
                try:
                    asked.send(connection)
                except Unanswered:
                    return
                except Torn as error:
                    self.torn.append(error)
                    return
                except Failed as error:
                    self.failed.append(error)
                    return

    def recover(self, server: Server) -> int:
        """Ask again for everything without an answer, twice; return how much that was."""
        pending = [asked for asked in self.asked if asked.pending]
        with self._account.connect(server, checked=False) as connection:
            for asked in pending:
                asked.send(connection)
                asked.send(connection)
        return len(pending)

    def _next(self) -> Asked:
        options: list[Callable[[], Asked]] = [self._debit, self._fund, self._decide, self._dry_run]
        if len(self._leases) < OPEN_MAX:
            options += [self._reserve] * 6
        if self._leases:
            options += [*[self._commit] * 4, *[self._release] * 2, self._extend, self._extend]
        return self._random.choice(options)()

    def _asked(self, endpoint: str, path: str, body: dict[str, object]) -> Asked:
        key = f"{self._name}-{len(self.asked)}"
        return Asked(endpoint, key, path, json.dumps({"idempotency_key": key} | body).encode())

    def _amount(self) -> int:
        return self._random.randrange(1, AMOUNT_MAX)

    def _work(self, agent: str, **more: object) -> dict[str, object]:
        subject = {"tenant": self._account.tenant, "agent": agent.removeprefix("/agent:")}
        return {"subject": subject, "action": {"kind": "llm", "name": "m"}, **more}

    def _reserve(self) -> Asked:
        agent, estimate = self._random.choice(AGENTS), self._amount()
        body = self._work(agent, estimate=_amount(estimate), ttl_ms=LEASE_MS)
        asked = self._asked("reserve", "/v1/reservations", body)

        def settle(reply: Reply) -> None:
            self._leases.append(_Lease(reply.json()["reservation_id"], agent, estimate))
            self._books.move(agent, reserved=estimate)

        asked.settle = settle
        return asked

    def _dry_run(self) -> Asked:
        agent = self._random.choice(AGENTS)
        body = self._work(agent, estimate=_amount(self._amount()), dry_run=True)
        return self._asked("reserve", "/v1/reservations", body)

    def _decide(self) -> Asked:
        body = self._work(self._random.choice(AGENTS), estimate=_amount(self._amount()))
        return self._asked("decide", "/v1/decide", body)

    def _debit(self) -> Asked:
        agent, actual = self._random.choice(AGENTS), self._amount()
        asked = self._asked("event", "/v1/events", self._work(agent, actual=_amount(actual)))
        asked.settle = lambda reply: self._books.move(agent, spent=actual)
        return asked

    def _fund(self) -> Asked:
        agent, amount = self._random.choice(AGENTS), self._random.randrange(1, 1_000)
        scope = f"tenant:{self._account.tenant}{agent}"
        path = f"/v1/admin/budgets/fund?scope={scope}&unit={UNIT}"
        asked = self._asked("fund", path, {"operation": "CREDIT", "amount": _amount(amount)})
        asked.settle = lambda reply: self._books.credit(agent, amount)
        return asked

    def _commit(self) -> Asked:
        lease = self._leases.pop(self._random.randrange(len(self._leases)))
        actual = self._random.choice((0, lease.estimate, self._amount()))

        def settle(reply: Reply) -> None:
            assert reply.json()["charged"]["amount"] == actual, "there is budget for all of it"
            self._books.move(lease.agent, reserved=-lease.estimate, spent=actual)

        asked = self._on(lease, "commit", {"actual": _amount(actual)})
        asked.settle = settle
        return asked

    def _release(self) -> Asked:
        lease = self._leases.pop(self._random.randrange(len(self._leases)))
        asked = self._on(lease, "release", {"reason": "not needed"})
        asked.settle = lambda reply: self._books.move(lease.agent, reserved=-lease.estimate)
        return asked

    def _extend(self) -> Asked:
        lease = self._random.choice(self._leases)
        if lease.extensions == EXTENSIONS_MAX:
            return self._decide()
        lease.extensions += 1
        return self._on(lease, "extend", {"extend_by_ms": 1_000})

    def _on(self, lease: _Lease, verb: str, body: dict[str, object]) -> Asked:
        path = f"/v1/reservations/{lease.reservation_id}/{verb}"
        return self._asked(f"{verb}:{lease.reservation_id}", path, body)


def _amount(amount: int) -> dict[str, object]:
    return {"unit": UNIT, "amount": amount}


def start_all(
    clients: Sequence[Client], server: Server, stop: threading.Event
) -> list[threading.Thread]:
    """Start every client on a thread of its own."""
    threads = [threading.Thread(target=client.work, args=(server, stop)) for client in clients]
    for thread in threads:
        thread.start()
    return threads
