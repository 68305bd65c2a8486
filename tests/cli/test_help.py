"""The help teaches: every example in it works, and nothing of its text is lost on the way."""

import contextlib
import itertools
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from bursar.ap2 import SigningKey, sign_receipt
from bursar.cli.__main__ import app
from bursar.cli.exits import EXIT_OK
from bursar.payments.outcome import Trigger, Work
from bursar.payments.ports import NoticeQuery
from bursar.payments.store import open_payments
from conftest import Served
from payments.world import alert, moved, payment, recorded

Run = Callable[..., Any]
RECEIPT = "runtime_authority.ap2.payment.charge.v1"
_numbers = itertools.count(1)

# These run until somebody stops them, or need a file that only another command writes; the pages
# of `docs/howto` run them instead.
ELSEWHERE = {
    "agent": "asks a provider; tests/cli/test_agent.py types it with a scripted one",
    "agent run": "the same",
    "serve": "serves until it is stopped",
    "replay": "needs a recorded trace",
    "doctor": "its store is that of a server",
    "payments recheck": "asks a chain; tests/cli/payments has one",
    "payments mark-refunded": "asks a chain; tests/cli/payments has one",
}


def apps(within: App = app, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield every command and group of commands with the words that name it."""
    for name in within:
        if name.startswith("-"):
            continue
        found = within[name]
        yield (*words, name), found
        yield from apps(found, (*words, name))


def text_of(found: App) -> str:
    """Return the help as it is written, not as it is shown."""
    function = found.default_command
    return str((function.__doc__ if function is not None else found.help) or "")


HELPS = {" ".join(words): text_of(found) for words, found in apps()}
EXAMPLES = [
    (words, " ".join(example.split()))
    for words, text in HELPS.items()
    for example in re.findall(r"Example: (bursar .+?)(?=\n\s*\n|\Z)", text, re.DOTALL)
]


class World:
    """A tenant named as in the examples, with what they name."""

    def __init__(self, run: Run, served: Served) -> None:
        self._served = served
        self.run = run
        self.tenant = f"acme-{next(_numbers)}"
        self.post("/v1/admin/tenants", tenant_id=self.tenant, name="Acme")
        made = self.post("/v1/admin/api-keys", tenant_id=self.tenant, name="k")
        self.key_id, self._secret = made["key_id"], made["key_secret"]
        rules = {"name": "p", "scope_pattern": f"tenant:{self.tenant}/*", "priority": 1}
        made = self.post("/v1/admin/policies", tenant_id=self.tenant, **rules)
        self.policy_id = made["policy_id"]

    def post(self, path: str, **body: Any) -> Any:
        operator = path.startswith("/v1/admin")
        name = "X-Admin-API-Key" if operator else "X-Cycles-API-Key"
        secret = self._served.admin_key if operator else self._secret
        request = urllib.request.Request(
            self._served.url + path, json.dumps(body).encode(), {name: secret}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)

    def budget(self, below: str = "") -> None:
        amount = {"unit": "USD_MICROCENTS", "amount": 50_000_000_000}
        fields = {
            "scope": f"tenant:{self.tenant}{below}",
            "unit": amount["unit"],
            "allocated": amount,
        }
        self.post("/v1/admin/budgets", tenant_id=self.tenant, **fields)

    def reserve(self) -> str:
        self.budget()
        said = self.post(
            "/v1/reservations",
            idempotency_key="k",
            subject={"tenant": self.tenant},
            action={"kind": "llm", "name": "m"},
            estimate={"unit": "USD_MICROCENTS", "amount": 1},
        )
        return str(said["reservation_id"])

    def prepare(self, words: str) -> None:
        """Make what a command needs besides the tenant."""
        if words.startswith(("budget", "explain", "balances")) and words != "budget create":
            self.budget()
            self.budget("/agent:reader")
            self.budget("/workspace:lab")
        if words == "budget unfreeze":
            assert self.run("budget", "freeze", f"tenant:{self.tenant}/agent:reader").code == 0
        if words in ("audit", "audit verify", "restore"):
            assert self.run("backup", "backup.db").code == EXIT_OK
            noted = self.run("audit", "verify", "backup.db", "--save-heads", "monday.json")
            assert noted.code == EXIT_OK
        if words in ("receipt", "receipt verify"):
            assert self.run("receipt", "keygen", "operator.pem").code == EXIT_OK
            signed = sign_receipt({"schema": RECEIPT}, SigningKey.from_file("operator.pem"))
            Path("receipt.json").write_text(json.dumps(signed))
        if words.startswith("payments"):
            keep_an_orphan(Path("bursar.db"))

    def typed(self, example: str) -> list[str]:
        """Return the words of an example, with the ids of this world for those that it shows."""
        example = re.sub(r"\bacme\b", self.tenant, example)
        said = re.sub(r"\bpol_\w{32}\b", self.policy_id, example)
        said = re.sub(r"\bkey_\w{32}\b", self.key_id, said)
        if "bursar release" in said:
            said = re.sub(r"\b[0-9a-f]{8}-[-0-9a-f]{27}\b", self.reserve(), said)
        typed = shlex.split(said)[1:]
        if typed[:3] == ["payments", "outbox", "dismiss"]:
            typed[3] = str(entry_of(Path("bursar.db")))
        if typed[0] == "reservations":
            typed += ["--rounds", "1"]  # instead of Ctrl-C
        if typed[:2] == ["tenant", "close"] or "bulk" in typed:
            typed.append("--yes")  # instead of the answer on a terminal
        return typed


def keep_an_orphan(file: Path) -> None:
    """Make a ledger's file with a payment that was made for nothing."""
    with contextlib.closing(open_payments(file)) as store:
        record = payment()
        store.add(record, recorded(record))
        paid = (Trigger.SENDING, Trigger.LOST, Trigger.SETTLED)
        change = moved(record, *paid, work=Work.FAILED)
        store.save([replace(change, notices=(alert(record, "k"),))])


def entry_of(file: Path) -> int:
    """Return the number of the one entry of a file's outbox."""
    with contextlib.closing(open_payments(file)) as store:
        [posted] = store.notices(NoticeQuery())
        return posted.number


@pytest.fixture
def world(operator: Run, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(operator, served)


@pytest.mark.parametrize(
    ("words", "example"),
    [one for one in EXAMPLES if one[0] not in ELSEWHERE],
    ids=[example for words, example in EXAMPLES if words not in ELSEWHERE],
)
def test_the_example_works_as_printed(world: World, words: str, example: str) -> None:
    """What the help shows can be typed as it stands, given the ids of what there is."""
    world.prepare(words)
    ran = world.run(*world.typed(example))
    assert ran.code == EXIT_OK, ran


def test_every_command_has_an_example() -> None:
    """All but `demo`, which has nothing to choose."""
    commands = {" ".join(words) for words, found in apps() if not list(apps(found))}
    assert commands - {words for words, _ in EXAMPLES} == {"demo"}
    assert ELSEWHERE.keys() <= set(HELPS)


@pytest.mark.parametrize("words", [words for words, text in HELPS.items() if "*" in text])
def test_the_help_loses_no_asterisk(words: str) -> None:
    """Text between two asterisks would be shown as emphasis, without them."""
    command = [sys.executable, "-m", "bursar.cli", *words.split(), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said = HELPS[words].partition("Parameters\n")[0]
    assert shown.count("*") >= said.count("*"), shown


@pytest.mark.parametrize("words", [words for words, found in apps() if list(apps(found))])
def test_a_group_says_what_each_of_its_commands_is_for(bursar: Run, words: tuple[str, ...]) -> None:
    shown = bursar(*words, "--help", COLUMNS="200").out
    names = [name for within, _ in apps() if within[:-1] == words for name in within[-1:]]
    assert names
    for name in names:
        assert re.search(rf"│ {name} +\w", shown), shown
