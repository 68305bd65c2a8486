"""The suggested fix of a budget's refusal is true: make the change, and the request passes.

A request may be blocked in several places, and a refusal speaks of the first. So each change must
remove the blocker that was named, for good, and following them must end in an accepted request
after no more steps than there are rungs.
"""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bursar.core.guards import STEP
from bursar.core.outcomes import Refused
from bursar.vocabulary import ErrorCode
from core import script
from core.table import Scenario, give, play, read_row, scenarios
from core.values import scope_path, short, unit
from core.world import World

LENGTH_MAX = 512
STEPS_MAX = 12
PATH = ("acme", "acme/app:chat", "acme/app:chat/agent:bot")
# What a fix may say, and the ways out that it names: rows to play first, and the request to send
# then (None: the same). `raise` is an operator's change of an overdraft limit.
Way = tuple[list[str], str | None]
CREDIT = r"(\d+ [A-Z_]+ to \S+(?: and \d+ [A-Z_]+ to \S+)*)"


def _credits(text: str) -> list[str]:
    found = re.findall(r"(\d+) ([A-Z_]+) to (\S+)", text)
    assert found
    return [f"fund {short(scope)} CREDIT {much} unit={of}" for much, of, scope in found]


def _lowered(request: str, most: str) -> str:
    verb, name, _, *rest = request.split(" ")
    return " ".join([verb, name, most, *rest])


def _raised(scope: str, of: str, more: str) -> str:
    return f"raise {scope} {more} unit={of}"


SAYS: list[tuple[str, Callable[..., list[Way]]]] = [
    (
        rf"Lower the estimate to at most (\d+), or credit {CREDIT}\.",
        lambda request, most, more: [([], _lowered(request, most)), (_credits(more), None)],
    ),
    (rf"Credit {CREDIT}\.", lambda request, more: [(_credits(more), None)]),
    (
        r"Credit (\d+) ([A-Z_]+) to (\S+), or raise its overdraft limit by (\d+)\.",
        lambda request, much, of, scope, more: [
            ([f"fund {short(scope)} CREDIT {much} unit={of}"], None),
            ([_raised(short(scope), of, more)], None),
        ],
    ),
    (
        r"REPAY_DEBT (\d+) ([A-Z_]+) at (\S+), or raise its overdraft limit by (\d+)\.",
        lambda request, much, of, scope, more: [
            ([f"fund {short(scope)} REPAY_DEBT {much} unit={of}"], None),
            ([_raised(short(scope), of, more)], None),
        ],
    ),
    (
        r"REPAY_DEBT (\d+) ([A-Z_]+) at (\S+)\.",
        lambda request, much, of, scope: [
            ([f"fund {short(scope)} REPAY_DEBT {much} unit={of}"], None)
        ],
    ),
    (
        r"CREDIT (\d+) ([A-Z_]+) to (\S+)\.",
        lambda request, much, of, scope: [([f"fund {short(scope)} CREDIT {much} unit={of}"], None)],
    ),
    (
        r"Unfreeze (\S+) \(([A-Z_]+)\)\.",
        lambda request, scope, of: [([f"unfreeze {short(scope)} unit={of}"], None)],
    ),
    (
        r"Commit at most (\d+), or reserve with another overage policy\.",
        lambda request, most: [([], _lowered(request, most))],
    ),
    (
        r"Create a ([A-Z_]+) budget at (\S+?)(?:, or at any scope from there to (\S+))?\.",
        lambda request, of, *places: [
            ([f"given budget {short(place)} allocated=100 unit={of}"], None)
            for place in places
            if place is not None
        ],
    ),
]


def ways_out(fix: str, request: str) -> list[Way]:
    """Return every change that a fix names as its first step."""
    fix = fix.split(STEP)[0]
    for pattern, ways in SAYS:
        match = re.fullmatch(pattern, fix)
        if match is not None:
            return ways(request, *match.groups())
    raise AssertionError(f"nobody can read this fix: {fix}")


class Desk:
    """A world that rows are played in, without expectations."""

    def __init__(self, rows: list[str]) -> None:
        self.world = World()
        self.rows: list[str] = []
        for row in rows:
            self.play(row)

    def play(self, text: str) -> Refused | None:
        self.rows.append(text)
        row = read_row(text)
        if row.verb == "given":
            give(self.world, row)
            return None
        if row.verb == "raise":
            where = ("acme", scope_path(row.words[0]), unit(row.options["unit"]))
            budget = self.world.tables.budgets[where]
            limit = budget.overdraft_limit + int(row.words[1])
            self.world.put(budgets=[replace(budget, overdraft_limit=limit)])
            return None
        options = row.options
        outcome = self.world.run(script.command(row.verb, row.words, options, str(len(self.rows))))
        return outcome if isinstance(outcome, Refused) else None


@st.composite
def budgets(draw: st.DrawFn, scope: str) -> str:
    """Draw one budget of a small world, often one that blocks in several ways at once."""
    allocated = draw(st.integers(0, 40))
    row = f"given budget {scope} allocated={allocated}"
    if draw(st.booleans()):
        row += f" spent={draw(st.integers(0, 60))}"
    debt = draw(st.integers(0, 30)) if draw(st.integers(0, 2)) == 0 else 0
    limit = draw(st.integers(1, 30)) if draw(st.booleans()) else 0
    row += f" debt={debt} limit={limit}"
    # Whatever changes a debt or a limit flags the excess, so there is none without the flag.
    if 0 < limit < debt or draw(st.integers(0, 3)) == 0:
        row += " over=yes"
    if draw(st.integers(0, 3)) == 0:
        row += " status=FROZEN"
    return row


@st.composite
def blocked(draw: st.DrawFn) -> tuple[list[str], str]:
    """Draw the rows of a world and a request in it."""
    scopes = draw(st.lists(st.sampled_from(PATH), unique=True, max_size=3))
    rows = [draw(budgets(scope)) for scope in scopes]
    where = f"at={PATH[-1]} overage={draw(st.sampled_from(('REJECT', 'AIA', 'AWO')))}"
    asked = draw(st.integers(0, 60))
    kind = draw(st.sampled_from(("reserve", "debit", "commit")))
    if kind != "commit":
        return rows, f"{kind} x {asked} {where}"
    # A hold needs budgets that let it pass; then operators take away, and others spend.
    healthy = [re.sub(r" (debt|over|status)=\w+", "", row) for row in rows]
    after = [
        f"fund {scope} RESET {draw(st.integers(0, 40))}" for scope in scopes if draw(st.booleans())
    ]
    spends = [
        f"debit e{n} {draw(st.integers(0, 40))} {where}" for n in range(draw(st.integers(0, 2)))
    ]
    return [*healthy, f"reserve x {draw(st.integers(0, 20))} {where}", *spends, *after], (
        f"commit x {asked}"
    )


@given(blocked())
@settings(max_examples=400)
def test_every_way_out_removes_the_blocker_and_leads_through(
    drawn: tuple[list[str], str],
) -> None:
    rows, request = drawn
    for _ in range(STEPS_MAX):
        refused = Desk(rows).play(request)
        if refused is None:
            return
        if refused.code is ErrorCode.NOT_FOUND and refused.reason is None:
            # The hold itself was refused, so there is nothing to commit: ask about the hold.
            place = next(n for n, row in enumerate(rows) if row.startswith("reserve"))
            rows, request = rows[:place], rows[place]
            continue
        event(refused.code.value)
        ways = ways_out(str(refused.fix), request)
        for changes, instead in ways:
            desk = Desk(rows)
            for change in changes:
                assert desk.play(change) is None, f"{refused.fix} / {change}"
            again = desk.play(instead or request)
            still = again is not None and (again.code, again.scope) == (refused.code, refused.scope)
            assert not still, f"{refused.fix} did not help: {again}"
        rows, request = [*rows, *ways[-1][0]], ways[-1][1] or request
    raise AssertionError(f"still refused after {STEPS_MAX} fixes: {rows} {request}")


@given(blocked())
@settings(max_examples=400)
def test_all_steps_of_a_fix_together_lead_through_at_once(drawn: tuple[list[str], str]) -> None:
    rows, request = drawn
    refused = Desk(rows).play(request)
    if request.startswith("commit") or refused is None or refused.reason is not None:
        return
    desk = Desk(rows)
    for step in str(refused.fix).split(STEP):
        changes, instead = ways_out(step, request)[-1]
        assert instead is None, f"the last way out of a step changes the ledger: {step}"
        for change in changes:
            assert desk.play(change) is None, f"{refused.fix} / {change}"
    assert desk.play(request) is None, f"{refused.fix} did not lead through"


ONE = scenarios("""
== one scope and one blocker: the change that is named is exactly enough
given budget acme allocated=10
reserve a 25          -> BUDGET_EXCEEDED fix="Lower the estimate to at most 10, or credit 15 USD_"
fund acme CREDIT 14
reserve a 25          -> BUDGET_EXCEEDED
fund acme CREDIT 1
reserve a 25          -> ALLOW

== several scopes that are short: every one is credited
given budget acme allocated=10
given budget acme/app:chat allocated=100
given budget acme/app:chat/agent:bot allocated=5
reserve a 25 at=acme/app:chat/agent:bot -> BUDGET_EXCEEDED fix="at most 5, or credit 15 USD_MICROC"
reserve a 25 at=acme/app:chat/agent:bot -> BUDGET_EXCEEDED fix="and 20 USD_MICROCENTS to tenant:ac"
fund acme CREDIT 15
fund acme/app:chat/agent:bot CREDIT 20
reserve a 25 at=acme/app:chat/agent:bot -> ALLOW

== a flag without a reason goes with the smallest credit
given budget acme allocated=10 over=yes
reserve a 5           -> OVERDRAFT_LIMIT_EXCEEDED fix="CREDIT 1 USD_MICROCENTS to tenant:acme."
fund acme CREDIT 1
reserve a 5           -> ALLOW

== a debt is repaid together with what the estimate needs
given budget acme allocated=10 spent=10 debt=4
reserve a 5           -> DEBT_OUTSTANDING fix="REPAY_DEBT 9 USD_MICROCENTS at tenant:acme."
fund acme REPAY_DEBT 9
reserve a 5           -> ALLOW

== below zero a credit would only fill the hole, so the debt is repaid
given budget acme allocated=1000 spent=1000 debt=80 limit=100
debit e 30 overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED fix="REPAY_DEBT 10 USD_MICROCENTS at tenant:acm"
fund acme CREDIT 10
debit e 30 overage=AWO  -> OVERDRAFT_LIMIT_EXCEEDED
fund acme RESET 1000
fund acme REPAY_DEBT 10
debit e 30 overage=AWO  -> APPLIED charged=-

== below zero without enough debt to repay, the credit fills the hole as well
given budget acme allocated=10 spent=20 limit=5
debit e 7 overage=AWO   -> OVERDRAFT_LIMIT_EXCEEDED fix="Credit 12 USD_MICROCENTS to tenant:acme, o"
fund acme CREDIT 11
debit e 7 overage=AWO   -> OVERDRAFT_LIMIT_EXCEEDED
fund acme CREDIT 1
debit e 7 overage=AWO   -> APPLIED

== frozen and closed scopes take no credit and are not told to
given budget acme allocated=10
given budget acme/agent:bot allocated=5 status=FROZEN
reserve a 25 at=acme/agent:bot -> BUDGET_EXCEEDED fix="or credit 15 USD_MICROCENTS to tenant:acme."
""")


@pytest.mark.parametrize("scenario", ONE, ids=str)
def test_a_fix_is_exactly_enough(scenario: Scenario) -> None:
    play(scenario)


NAME = "n" * 128
LONG = "/".join(
    [NAME, *(f"{kind}:{NAME}" for kind in ("workspace", "app", "workflow", "agent", "toolset"))]
)
LONG_SCOPES = ["/".join(LONG.split("/")[: depth + 1]) for depth in range(6)]
TOO_MUCH = f"reserve x MAX at={LONG}"
OVERDRAWN = f"debit x MAX overage=AWO at={LONG}"


@pytest.mark.parametrize(
    ("options", "request_row"),
    [
        ("allocated=1", TOO_MUCH),
        ("allocated=0", TOO_MUCH),
        ("allocated=1 status=FROZEN", TOO_MUCH),
        ("allocated=1 status=CLOSED", TOO_MUCH),
        ("allocated=1 over=yes", TOO_MUCH),
        ("allocated=1 debt=1", TOO_MUCH),
        ("allocated=1 unit=RISK_POINTS", TOO_MUCH),
        ("allocated=1 limit=1", OVERDRAWN),
        ("allocated=1 limit=MAX debt=MAX-1", OVERDRAWN),
        ("allocated=1 limit=MAX spent=MAX-1", OVERDRAWN),
        ("allocated=1", f"debit x MAX overage=REJECT at={LONG}"),
        (None, TOO_MUCH),
    ],
)
def test_a_fix_fits_the_protocol_however_long_the_names(
    options: str | None, request_row: str
) -> None:
    """Six scopes of 128-character names and the largest numbers stay one whole sentence."""
    rows = [f"given budget {scope} {options}" for scope in LONG_SCOPES if options]
    for depth in range(1 if options else 0, 7):
        refused = Desk(rows[-depth:] if depth else []).play(request_row)
        assert refused is not None
        assert refused.fix is not None
        assert len(refused.fix) <= LENGTH_MAX
        assert refused.fix.endswith(".")
