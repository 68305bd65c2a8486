"""What becomes of an embedded ledger at its ends: closing, forks, threads, and wrong files."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bursar
from bursar import AsyncCyclesClient, CyclesClient, CyclesTransportError
from bursar.ledger.ports import StoreUnusable

ENDS_WITHIN_S = 60
FORKED = """
import os, sys
from bursar import CyclesClient, CyclesTransportError
from bursar.ledger.ports import StoreUnusable

def spend(client):
    client.reserve(estimate=5, unit="TOKENS").commit(3)

client = CyclesClient.embedded(sys.argv[1])
client.create_budget("1k tokens")
spend(client)
child = os.fork()
if not child:
    try:
        spend(client)
    except CyclesTransportError as error:
        assert "was forked" in str(error), error
    else:
        sys.exit("the child used its parent's connection")
    if sys.argv[1] != ":memory:":
        try:
            CyclesClient.embedded(sys.argv[1])
        except StoreUnusable as error:
            assert "was forked" in str(error), error
        else:
            sys.exit("the child opened its parent's file")
    CyclesClient.embedded(":memory:").close()
    client.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
spend(client)
(balance,) = client.typed.iter_balances(tenant="default")
print(balance.spent.amount, balance.reserved.amount)
client.close()
"""
FORKED_FIRST = """
import os, sys
from bursar import CyclesClient

with CyclesClient.embedded(sys.argv[1]) as client:
    client.create_budget("1k tokens")
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        with CyclesClient.embedded(sys.argv[1]) as client:
            for _ in range(10):
                client.reserve(estimate=5, unit="TOKENS").commit(3)
        sys.exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
with CyclesClient.embedded(sys.argv[1]) as client:
    (balance,) = client.typed.iter_balances(tenant="default")
    print(balance.spent.amount, balance.reserved.amount)
"""


def run(program: str, *arguments: str) -> str:
    """Run a program and return what it printed."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(bursar.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    return ran.stdout.strip()


@pytest.mark.parametrize("where", ["budget.db", ":memory:"])
def test_forked_child_leaves_the_file_alone(where: str, tmp_path: Path) -> None:
    """A child with its parent's file could lose commits, so it is told; the parent goes on."""
    assert run(FORKED, where if where == ":memory:" else str(tmp_path / where)) == "6 0"


def test_children_open_what_the_parent_had_closed(tmp_path: Path) -> None:
    """Processes that were forked first share a file like any others."""
    assert run(FORKED_FIRST, str(tmp_path / "budget.db")) == "90 0"


def test_use_after_close_is_told(tmp_path: Path) -> None:
    """Every method says that the client is closed; closing it again does nothing."""
    client = CyclesClient.embedded(tmp_path / "budget.db")
    client.create_budget("100 tokens")
    client.close()
    client.close()
    answer = client.get_balances(tenant="default")
    assert answer.is_transport_error
    assert str(answer.error_message).startswith("the client of tenant default is closed and sent")
    for use in (
        lambda: client.reserve(estimate=1, unit="TOKENS"),
        lambda: client.create_budget("1USD"),
        lambda: client.credit_budget("1 token"),
    ):
        with pytest.raises(CyclesTransportError, match="default is closed and sent nothing; open"):
            use()


def test_async_use_after_close_is_told() -> None:
    """The same for the other client."""

    async def use() -> str | None:
        client = AsyncCyclesClient.embedded(":memory:")
        await client.aclose()
        await client.aclose()
        return (await client.get_balances(tenant="default")).error_message

    assert "is closed and sent nothing" in str(asyncio.run(use()))


def test_memory_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in memory is gone with its client, closed or dropped."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with CyclesClient.embedded(":memory:") as client:
        client.create_budget("1USD")
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_two_clients_of_one_process_share_a_file(tmp_path: Path) -> None:
    """What one spends the other sees, and closing one leaves the other open."""
    path = tmp_path / "budget.db"
    with CyclesClient.embedded(path) as first:
        first.create_budget("100 tokens")
        with CyclesClient.embedded(path) as second:
            second.reserve(estimate=60, unit="TOKENS").commit(60)
        (balance,) = first.typed.iter_balances(tenant="default")
        assert balance.remaining.amount == 40
        first.reserve(estimate=40, unit="TOKENS").commit(40)


def test_threads_share_a_client(tmp_path: Path) -> None:
    """No update is lost, and nothing beyond the budget passes."""
    with CyclesClient.embedded(tmp_path / "budget.db") as client:
        client.create_budget("100 tokens")

        def spend(_: int) -> bool:
            try:
                client.reserve(estimate=1, unit="TOKENS").commit(1)
            except bursar.BudgetExceededError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            passed = list(pool.map(spend, range(120)))
        (balance,) = client.typed.iter_balances(tenant="default")
    assert (sum(passed), balance.spent.amount, balance.remaining.amount) == (100, 100, 0)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE notes (text)")
    database.close()


def corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, and never was one. " * 100)


def newer(path: Path) -> None:
    CyclesClient.embedded(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()


@pytest.mark.parametrize("spoil", [foreign, corrupt, newer])
def test_wrong_file_is_refused_and_left_alone(spoil: object, tmp_path: Path) -> None:
    """The error names the file, and whatever it was it still is."""
    path = tmp_path / "budget.db"
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes()
    for kind in (CyclesClient, AsyncCyclesClient):
        with pytest.raises(StoreUnusable, match=r"budget\.db") as refused:
            kind.embedded(path)
        assert "--" not in str(refused.value), "a program has no options of the command line"
    assert path.read_bytes() == before


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """A mistyped path creates no folders."""
    with pytest.raises(StoreUnusable, match="nowhere does not exist; create it first"):
        CyclesClient.embedded(tmp_path / "nowhere" / "budget.db")


@pytest.mark.parametrize(
    "name",
    [
        *("a b", " ", "é ü", "日本", "a#b", "a?mode=ro", "a%20b", "a%", "a\nb", "a\tb"),
        *("a'b", 'a"b', "a\\b", "a;b&c=d", "@", "[::1]:80", "-rf", "~", "a\udcffb"),
    ],
)
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """What a file system allows is allowed, for the file and for its folder, sync and async."""
    places = [tmp_path / f"{name}.db", tmp_path / name / "l.db"]
    places[1].parent.mkdir()

    async def read(place: Path) -> int:
        async with AsyncCyclesClient.embedded(str(place)) as client:
            (row,) = (await client.get_balances(tenant="default")).body["balances"]
            spent: int = row["spent"]["amount"]
            return spent

    addresses = set[str]()
    for place in places:
        with CyclesClient.embedded(place) as client:
            client.create_budget("1k tokens")
            client.reserve(estimate=5, unit="TOKENS").commit(3)
            addresses.add(client.config.base_url)
        assert asyncio.run(read(place)) == 3
        assert place.is_file()
    left = {tmp_path / name, *places, *(Path(f"{place}.pending") for place in places)}
    assert {*tmp_path.iterdir(), *places[1].parent.iterdir()} == left
    assert addresses == {f"embedded://{shown(str(place))}" for place in places}


def shown(path: str) -> str:
    """Return a path in an address: readable, but for what would end the address or its name."""
    for one, code in {"%": "25", " ": "20", "#": "23", "?": "3F", "\n": "0A", "\t": "09"}.items():
        path = path.replace(one, f"%{code}")
    return path.replace("\udcff", "%FF")


@pytest.mark.parametrize(
    ("name", "said"), [("a\0b", "has a NUL; name another file"), ("a\ud800b", "cannot be a file")]
)
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str, said: str) -> None:
    """It is refused before anything is opened, and shown as it can be shown."""
    for embedded in (CyclesClient.embedded, AsyncCyclesClient.embedded):
        with pytest.raises(ValueError, match=said) as caught:
            embedded(tmp_path / name)
        assert ascii(name)[1:-1] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_space_is_named_as_it_is(tmp_path: Path) -> None:
    """A message about a file is for people: it has the path that they know."""
    place = tmp_path / "my agents"
    place.mkdir()
    with pytest.raises(StoreUnusable, match=f"{place} is a directory"):
        CyclesClient.embedded(place)


def test_a_wrong_field_opens_nothing(tmp_path: Path) -> None:
    """A mistake in the configuration leaves no file behind."""
    with pytest.raises(ValueError, match="read_timeout"):
        CyclesClient.embedded(tmp_path / "l.db", read_timeout=-1)
    assert list(tmp_path.iterdir()) == []
