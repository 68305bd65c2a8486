"""The parts of the reference that are made from the code say what the code says.

Such a part stands between `<!-- from the code: NAME -->` and `<!-- end -->`. After a change,
`python tests/test_reference.py` writes all of them again.
"""

import ast
import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from itertools import pairwise
from pathlib import Path

import pytest
from cyclopts import App, Argument

from bursar.authority import refusals
from bursar.cli import exits
from bursar.cli.__main__ import COMMANDS, app
from bursar.cli.remote.options import SERVER
from bursar.core.commands import Commit, Idempotency, Reserve
from bursar.core.execute import execute
from bursar.core.outcomes import Refused
from bursar.core.snapshot import Snapshot
from bursar.core.state import Budget, Reservation, Tenant
from bursar.server.auth import Access
from bursar.server.routes import ROUTES
from bursar.server.settings import SETTINGS
from bursar.vocabulary import (
    BudgetStatus,
    ErrorCode,
    OveragePolicy,
    ReservationStatus,
    TenantStatus,
    Unit,
)
from bursar.wire.problems import PROBLEMS

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
PART = re.compile(r"(<!-- from the code: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CREDENTIAL = {
    Access.TENANT: "API key",
    Access.OPERATOR: "admin key",
    Access.EITHER: "API key or admin key",
}


def settings_table() -> Iterator[str]:
    yield "| setting | variable | default | least | meaning |\n|---|---|---|---|---|"
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default != "" else "none"
        least = "" if setting.minimum is None else str(setting.minimum)
        yield f"| `{setting.name}` | `{setting.env}` | {default} | {least} | {setting.sentence} |"


def errors_table() -> Iterator[str]:
    yield "| error | status | meaning | what to do | same request again? |\n|---|---|---|---|---|"
    for code, problem in PROBLEMS.items():
        again = "yes" if problem.retryable else "no"
        yield f"| `{code}` | {problem.status} | {problem.meaning} | {problem.advice} | {again} |"


def exits_table() -> Iterator[str]:
    """Yield the codes with the sentence that stands under each of them."""
    yield "| code | name | meaning |\n|---|---|---|"
    body = ast.parse(Path(exits.__file__).read_text(encoding="utf-8")).body
    for node, below in pairwise(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, said = node.target.id, "The command did its job."
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                said = str(below.value.value)
            yield f"| {getattr(exits, name)} | `{name}` | {said} |"


def routes_table() -> Iterator[str]:
    yield "| method | path | operation | credential |\n|---|---|---|---|"
    for route in ROUTES:
        credential = CREDENTIAL[route.access]
        yield f"| {route.method} | `{route.path}` | {route.operation_id} | {credential} |"


ACME = Tenant("acme", "Acme", TenantStatus.ACTIVE, created_at_ms=1)
BUDGET = Budget(
    *("acme", "tenant:acme", Unit.TOKENS, "ldg_1", 1_000, 300, 200, 500, 0, 0),
    is_over_limit=False,
    status=BudgetStatus.ACTIVE,
    created_at_ms=1,
    updated_at_ms=1,
)
RESERVATION = Reservation(
    tenant="acme",
    reservation_id="01a1fbb9-1350-75df-9985-94342bf6c3c8",
    status=ReservationStatus.ACTIVE,
    unit=Unit.TOKENS,
    estimate_amount=200,
    scope_path="tenant:acme",
    budgeted_scopes=("tenant:acme",),
    overage_policy=OveragePolicy.REJECT,
    created_at_ms=1,
    expires_at_ms=60_001,
    grace_ms=5_000,
    extensions_max=10,
    idempotency_key="k",
    subject="{}",
    action="{}",
)


def reserve(tenant: Tenant = ACME, budget: Budget | None = BUDGET, **fields: object) -> Refused:
    """Return why the estimate cannot be held."""
    snapshot = Snapshot(tenants={"acme": tenant})
    if budget is not None:
        snapshot.budgets["acme", budget.scope, budget.unit] = replace(budget, **fields)
    command = Reserve(
        tenant="acme",
        idempotency=Idempotency("reserve", "k", ""),
        reservation_id=RESERVATION.reservation_id,
        unit=Unit.TOKENS,
        estimate_amount=400,
        scopes=("tenant:acme", "tenant:acme/agent:bot"),
        subject="{}",
        action="{}",
        grace_ms=5_000,
    )
    refused = execute(snapshot, command, 2)
    assert isinstance(refused, Refused)
    return refused


def commit(**fields: object) -> Refused:
    """Return why the cost cannot be charged."""
    row = replace(RESERVATION, **fields)
    snapshot = Snapshot(
        tenants={"acme": ACME},
        budgets={("acme", "tenant:acme", Unit.TOKENS): replace(BUDGET, overdraft_limit=100)},
        reservations={("acme", row.reservation_id): row},
    )
    command = Commit(
        tenant="acme",
        idempotency=Idempotency("commit", "k", ""),
        reservation_id=row.reservation_id,
        unit=Unit.TOKENS,
        actual_amount=700,
    )
    refused = execute(snapshot, command, 2)
    assert isinstance(refused, Refused)
    return refused


LOCAL = {"serve", "demo", "replay"}  # told by hand, each with more to say than its options


def remote_commands() -> Iterator[tuple[str, App | None, str]]:
    """Yield (words, command or None for a noun, its help) for each command with a server."""
    for name in app:
        if name.startswith("-") or name in LOCAL:
            continue
        entry = app[name]
        if entry.default_command is not None:
            yield name, entry, inspect.getdoc(entry.default_command) or ""
            continue
        where = next(where for _, known, where, _ in COMMANDS if known == name)
        about = importlib.import_module(f"bursar.cli.{where.partition(':')[0]}").ABOUT
        yield name, None, about
        yield from _verbs(name, entry)


def _verbs(words: str, noun: App) -> Iterator[tuple[str, App | None, str]]:
    """Yield the commands of a noun, and those of the groups among them."""
    for verb in noun:
        entry = noun[verb]
        if verb.startswith("-"):
            continue
        if entry.default_command is None:
            yield f"{words} {verb}", None, str(entry.help)
            yield from _verbs(f"{words} {verb}", entry)
        else:
            yield f"{words} {verb}", entry, inspect.getdoc(entry.default_command) or ""


def commands_text() -> Iterator[str]:
    for words, entry, about in remote_commands():
        if entry is None:
            yield f"##{'#' if ' ' in words else ''} `bursar {words}`\n"
        else:
            places = [a for a in _arguments(entry) if not a.name.startswith("-")]
            usage = " ".join([words, *(place.name for place in places)])
            yield f"##{'#' if ' ' in words else ''} `bursar {usage}`\n"
        yield _prose(about)
        if entry is not None:
            yield from _options(entry, shared=False)


def shared_options() -> Iterator[str]:
    """Yield the options that every command with a server has."""
    yield from _options(app["tenant"]["list"], shared=True)


def _prose(about: str) -> str:
    """Return a docstring's text without its table of parameters, the example as code."""
    text = about.partition("\nParameters\n")[0].strip()
    said, _, example = text.partition("Example: ")
    shown = f"```console\n$ {' '.join(example.split())}\n```\n" if example else ""
    return f"{said.strip()}\n\n{shown}"


def _arguments(entry: App) -> Iterator[Argument]:
    for argument in entry.assemble_argument_collection(parse_docstring=True):
        if argument.name != "*":
            yield argument


def _options(entry: App, *, shared: bool) -> Iterator[str]:
    rows = []
    for argument in _arguments(entry):
        if (SERVER in argument.parameter.group) is not shared:
            continue
        names = ", ".join(f"`{name}`" for name in argument.names if not name.startswith("--no-"))
        said = " ".join((argument.parameter.help or "").split())
        kinds = typing.get_args(argument.hint) or (argument.hint,)
        choices = [c for k in kinds if isinstance(k, type) and issubclass(k, Enum) for c in k]
        if choices:
            said = f"{said} One of {', '.join(f'`{choice.value}`' for choice in choices)}."
        default = argument.field_info.default
        shown = f"`{default}`" if type(default) in (int, float, str) else ""
        rows.append(f"| {names} | {said} | {shown} |")
    if rows:
        yield "| option | means | default |\n|---|---|---|"
        yield from rows
        yield ""


DENIALS: dict[str, Callable[[], Refused]] = {
    "A reserve of 400 where 300 remain": reserve,
    "A reserve under a frozen budget": lambda: reserve(status=BudgetStatus.FROZEN),
    "A reserve under a closed budget": lambda: reserve(status=BudgetStatus.CLOSED),
    "A reserve under a budget that is over its limit": lambda: reserve(is_over_limit=True),
    "A reserve under a budget that owes 50 and may owe nothing": lambda: reserve(
        debt=50, remaining=250
    ),
    "A commit of 700 for a hold of 200 under `REJECT`": commit,
    "A commit of 700 for a hold of 200 that would overdraw the budget too far": lambda: commit(
        overage_policy=OveragePolicy.ALLOW_WITH_OVERDRAFT
    ),
    "Anything new under a closed tenant": lambda: reserve(
        tenant=replace(ACME, status=TenantStatus.CLOSED)
    ),
    "Anything new under a suspended tenant": lambda: reserve(
        tenant=replace(ACME, status=TenantStatus.SUSPENDED)
    ),
    "A reserve where no budget counts in its unit": lambda: reserve(
        budget=replace(BUDGET, unit=Unit.CREDITS)
    ),
    "A reserve without any budget above it": lambda: reserve(budget=None),
}


def denials() -> Iterator[str]:
    for about, refused in DENIALS.items():
        answer = refusals.answer(refused(), "01a1fbb9-…", "3a2c45e5…")
        body = json.dumps(json.loads(answer.body), indent=2, ensure_ascii=False)
        yield f"**{about}: {answer.status}**\n\n```json\n{body}\n```\n"


PARTS: dict[tuple[str, str], Callable[[], Iterator[str]]] = {
    ("cli.md", "shared"): shared_options,
    ("cli.md", "commands"): commands_text,
    ("settings.md", "settings"): settings_table,
    ("errors.md", "codes"): errors_table,
    ("errors.md", "denials"): denials,
    ("exit_codes.md", "codes"): exits_table,
    ("http.md", "routes"): routes_table,
}


def written(page: str) -> str:
    """Return a page with its parts as they should be."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    return PART.sub(lambda m: f"{m[1]}{_lines(PARTS[page, m[2]])}{m[4]}", text)


def _lines(part: Callable[[], Iterator[str]]) -> str:
    return "".join(f"{line}\n" for line in part())


@pytest.mark.parametrize("page", sorted({page for page, _ in PARTS}))
def test_page_says_what_the_code_says(page: str) -> None:
    """Every part that is made from the code is there once, and up to date."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    parts = sorted(name for on, name in PARTS if on == page)
    assert sorted(match[2] for match in PART.finditer(text)) == parts
    assert text == written(page), "run `python tests/test_reference.py`"


def test_every_denial_has_an_example() -> None:
    """Each refusal that says what would have helped is shown; so are all codes, once."""
    assert PROBLEMS.keys() == set(ErrorCode)
    shown = {refused().code for refused in DENIALS.values()}
    assert shown >= {
        *(ErrorCode.BUDGET_EXCEEDED, ErrorCode.BUDGET_FROZEN, ErrorCode.BUDGET_CLOSED),
        *(ErrorCode.OVERDRAFT_LIMIT_EXCEEDED, ErrorCode.DEBT_OUTSTANDING, ErrorCode.TENANT_CLOSED),
    }
    for refused in (make() for make in DENIALS.values()):
        details = refusals.details(refused)
        assert refused.code is ErrorCode.UNIT_MISMATCH or "reason_code" in details["deny_detail"]


def test_tables_are_not_empty() -> None:
    """A table has a row for each thing that it lists."""
    rows = {part: len(list(make())) - 1 for part, make in PARTS.items()}
    names = [name for name in vars(exits) if name.startswith("EXIT_")]
    assert rows["settings.md", "settings"] == len(SETTINGS) > 0
    assert rows["exit_codes.md", "codes"] == len(names) > 0
    assert rows["http.md", "routes"] == len(ROUTES) > 0


if __name__ == "__main__":
    for page in sorted({page for page, _ in PARTS}):
        (REFERENCE / page).write_text(written(page), encoding="utf-8")
