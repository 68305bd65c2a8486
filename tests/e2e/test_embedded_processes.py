"""Several programs embed one ledger file at once, without a server: it stays one ledger."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bursar.ledger.audit import audit
from bursar.ledger.ports import BudgetQuery
from bursar.storage.sqlite.reader import SqliteReader
from bursar.storage.sqlite.store import SqliteStore
from e2e import embedder
from e2e.embedder import ALLOCATED, SHARED_COST
from e2e.ledgers import TENANT

PROGRAMS = 4
ROUNDS = 40
CREATIONS = 20
ENDS_WITHIN_S = 60
TESTS = Path(embedder.__file__).parents[1]


@contextlib.contextmanager
def programs(rounds: int, *paths: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the programs; end what is left of them."""
    search = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [sys.executable, embedder.__file__, f"p{number}", str(rounds), *map(str, paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": search},
            text=True,
        )
        for number in range(PROGRAMS)
    ]
    try:
        yield started
    finally:
        for program in started:
            if program.poll() is None:
                program.kill()
            program.communicate(timeout=ENDS_WITHIN_S)


def open_together(started: list[subprocess.Popen[str]]) -> None:
    """Wait until all programs are about to open the next file, then let all of them do it."""
    assert [heard(program) for program in started] == ["open?"] * PROGRAMS
    for program in started:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()


def heard(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline().strip()


def torn_views(path: Path, started: list[subprocess.Popen[str]]) -> tuple[int, list[str]]:
    """Read until the programs have ended; return how often, and every state that cannot be.

    Each operation moves both budgets by the same amounts, so no committed state has them apart.
    """
    reader, reads, wrong = SqliteReader(path), 0, list[str]()
    deadline = time.monotonic() + ENDS_WITHIN_S
    while any(program.poll() is None for program in started):
        assert time.monotonic() < deadline
        rows = reader.budgets(BudgetQuery(tenant=TENANT)).rows
        reads += 1
        if len({(row.spent, row.reserved) for row in rows}) > 1:
            wrong.append(str(rows))
    reader.close()
    return reads, wrong


def test_programs_that_share_a_file_lose_nothing(tmp_path: Path) -> None:
    """No update is lost, there is one chain, a shared key has one answer, readers see no halves."""
    path = tmp_path / "ledger.db"
    SqliteStore.open(path).close()
    with programs(ROUNDS, path) as started:
        open_together(started)
        reads, wrong = torn_views(path, started)
        told = [json.loads(heard(program)) for program in started]
        assert [program.wait() for program in started] == [0] * PROGRAMS
    assert wrong == []
    assert reads > 10, "nobody looked while they worked"
    assert len({each["shared"] for each in told}) == 1, "one key, one answer, whoever asks"
    spent = sum(each["spent"] for each in told) + ROUNDS * SHARED_COST
    store = SqliteStore.open(path, create=False)
    try:
        assert audit(store.reader).findings == ()
        for budget in store.reader.budgets(BudgetQuery(tenant=TENANT)).rows:
            assert (budget.allocated, budget.spent, budget.reserved) == (ALLOCATED, spent, 0)
        entries = list(store.reader.entries(TENANT))
    finally:
        store.close()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert Counter(entry.verb for entry in entries) == {
        "CreateTenant": 1,
        "CreateBudget": 2,
        "Reserve": PROGRAMS * ROUNDS,
        "Commit": PROGRAMS * ROUNDS,
        "Debit": PROGRAMS * ROUNDS + ROUNDS,
    }


def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path) -> None:
    """One of them creates the ledger, all of them use it."""
    paths = [tmp_path / f"{number}.db" for number in range(CREATIONS)]
    with programs(1, *paths) as started:
        for path in paths:
            open_together(started)
            told = [json.loads(heard(program)) for program in started]
            assert len({each["shared"] for each in told}) == 1, path
        assert [program.wait(ENDS_WITHIN_S) for program in started] == [0] * PROGRAMS
    for path in paths:
        store = SqliteStore.open(path, create=False)
        assert audit(store.reader).findings == ()
        store.close()
