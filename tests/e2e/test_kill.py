"""A server that is killed under load loses nothing that it acknowledged, and repeats nothing.

SIGKILL shows what survives the process. The kernel lives on and still writes what it was given,
so nothing here says what survives a loss of power; that rests on the fsync before each answer.
"""

import random
import secrets
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bursar.ledger.audit import audit
from e2e.accounts import Account, balances, open_account
from e2e.compare import Witness
from e2e.ledgers import found, opened
from e2e.load import BUDGETS, UNIT, Books, Client, start_all
from e2e.servers import Server, Servers

KILLS = 20
CREATORS = 8
CREATING_MS = (5, 60)
CREATE = """
import sys
from pathlib import Path
from bursar.storage.sqlite.store import SqliteStore
print("ready", flush=True)
for number in range(10_000):
    SqliteStore.open(Path(sys.argv[1]) / f"{number:05}.db", exclusive=True).close()
"""
CLIENTS = 12
LOAD_MS = (20, 150)  # from the moment that all clients are at work
THREAD_ENDS_WITHIN_S = 60


@dataclass(slots=True)
class Tally:
    """What the kills met."""

    kills: int = 0
    acknowledged: int = 0
    unanswered: int = 0
    saved_unanswered: int = 0
    torn: int = 0


def load_and_kill(
    server: Server, clients: list[Client], chance: random.Random, tally: Tally
) -> None:
    """Let all clients work for a while, then kill the server under them."""
    before = sum(len(client.asked) for client in clients)
    threads = start_all(clients, server, threading.Event())
    while sum(len(client.asked) for client in clients) < before + 2 * len(clients):
        time.sleep(0.001)
    time.sleep(chance.uniform(*LOAD_MS) / 1_000)
    server.kill()
    for thread in threads:
        thread.join(THREAD_ENDS_WITHIN_S)
        assert not thread.is_alive(), "a client still waits for a server that is gone"
    tally.kills += 1


def compare(
    server: Server, account: Account, clients: list[Client], books: Books, witness: Witness
) -> None:
    """Compare the whole file, and the server's answer, with everything that was ever told."""
    assert witness.look() == []
    assert witness.differences([asked for client in clients for asked in client.asked]) == []
    with account.connect(server) as connection:
        assert balances(connection, account.tenant) == books.balances()


def test_nothing_acknowledged_is_lost_by_a_kill(servers: Servers) -> None:
    """After twenty kills under load, file and clients agree to the byte."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance, tally, books = random.Random(seed), Tally(), Books()
    server = servers.start()
    account = open_account(server, BUDGETS, unit=UNIT)
    clients = [
        Client(f"c{number}", account, books, f"{seed}-{number}") for number in range(CLIENTS)
    ]
    witness = Witness(server.store, account.tenant)
    for _ in range(KILLS):
        load_and_kill(server, clients, chance, tally)
        pending = [asked for client in clients for asked in client.asked if asked.pending]
        server = servers.start()
        assert witness.look() == []
        tally.saved_unanswered += sum(len(witness.entries(asked)) for asked in pending)
        tally.unanswered += sum(client.recover(server) for client in clients)
        assert len(pending) <= len(clients), "each client waits for one answer at a time"
        compare(server, account, clients, books, witness)
    assert server.stop() == 0, server.logged()
    assert witness.look() == []
    tally.acknowledged = sum(len(client.asked) for client in clients)
    tally.torn = sum(len(client.torn) for client in clients)
    print(tally)
    assert tally.kills >= 20
    # The kills must have met both kinds of unanswered requests, or nothing was tested.
    assert 0 < tally.saved_unanswered < tally.unanswered


def test_a_ledger_is_created_whole_or_not_at_all(tmp_path: Path) -> None:
    """Whenever a process dies that creates ledgers: each of its files can be opened and used."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(CREATORS):
        folder = tmp_path / str(number)
        folder.mkdir()
        creator = subprocess.Popen([sys.executable, "-c", CREATE, folder], stdout=subprocess.PIPE)
        assert creator.stdout is not None
        assert creator.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(*CREATING_MS) / 1_000)
        creator.kill()
        creator.communicate()
        paths = sorted(folder.glob("*.db"))
        assert paths
        for path in paths[-2:]:  # the ones before were closed
            with opened(path) as ledger:
                found(ledger)
                assert audit(ledger.store.reader).findings == ()
