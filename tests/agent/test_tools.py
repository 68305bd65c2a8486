"""Tools are typed functions: what a model is told, what is checked, and who may use them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from bursar.agent.ports import BudgetDenied, ToolCall, ToolResult
from bursar.agent.tools import TEXT_MAX, Permissions, Toolbox, tool
from bursar.money import AmountError


def search(text: str, limit: int = 3, order: Literal["new", "old"] = "new") -> str:
    """Search the archive.

    It looks at titles only.

    Args:
        text: what to look for,
            in one line.
        limit: how many hits.
        order: which first.

    Returns:
        Nothing that a model reads.
    """
    return f"{limit} {order} hits for {text}"


async def double(of: int) -> dict[str, int]:
    return {"twice": 2 * of}


def fails(text: str) -> str:
    raise LookupError(f"no {text}")


def use(box: Toolbox, name: str, arguments: str = "{}") -> ToolResult:
    return asyncio.run(box.run(ToolCall("c1", name, arguments), deadline=None))


def test_a_signature_is_the_schema() -> None:
    """Types, defaults and the `Args` of the docstring are what the model is told."""
    spec = tool(search).spec
    assert (spec.name, spec.description) == (
        "search",
        "Search the archive.\n\nIt looks at titles only.",
    )
    schema = spec.parameters
    assert schema["required"] == ["text"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["text"]["description"] == "what to look for, in one line."
    assert schema["properties"]["limit"]["default"] == 3
    assert schema["properties"]["order"]["enum"] == ["new", "old"]


@pytest.mark.parametrize(
    ("name", "arguments", "text", "is_error"),
    [
        ("search", '{"text": "ledgers"}', "3 new hits for ledgers", False),
        ("search", '{"text": "x", "limit": 1, "order": "old"}', "1 old hits for x", False),
        ("double", '{"of": 4}', '{"twice":8}', False),
        ("search", "{}", "text: Field required", True),
        ("search", '{"text": "x", "limit": "many"}', "limit: Input should be", True),
        ("search", '{"text": "x", "order": "odd"}', "order: Input should be", True),
        ("search", '{"text": "x", "who": 1}', "who: Extra inputs", True),
        ("search", '{"text": ', "arguments: Invalid JSON", True),
        ("search", "[1]", "arguments: Input should be an object", True),
        ("fails", '{"text": "ledger"}', "LookupError: no ledger'"[:-1], True),
        ("absent", "{}", "there is no tool 'absent'; there are: search, double, fails", True),
    ],
)
def test_what_comes_of_a_call(name: str, arguments: str, text: str, is_error: bool) -> None:
    """Arguments are checked first; every mistake is a result that the model can read."""
    result = use(Toolbox([search, double, fails]), name, arguments)
    assert text.strip('"') in result.text
    assert (result.is_error, result.denial, result.call_id) == (is_error, None, "c1")


@dataclass
class Point:
    x: int
    y: int = 0


def test_structured_arguments_arrive_as_what_they_are() -> None:
    """A dataclass parameter is an object of that class."""

    def where(points: list[Point]) -> str:
        return str([type(one).__name__ for one in points])

    made = tool(where)
    result = asyncio.run(made.use('{"points": [{"x": 1}]}'))
    assert result == "['Point']"


def variadic(*texts: str) -> str:
    return ""


def untyped(text) -> str:  # type: ignore[no-untyped-def]  # what is refused here
    return ""


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (variadic, {}, "cannot be named by a model"),
        (untyped, {}, "has no type"),
        (search, {"name": "no spaces"}, "1 to 64"),
        (search, {"cost": -1}, "at least 0"),
    ],
)
def test_what_cannot_be_a_tool_says_why(
    function: Any, options: dict[str, Any], message: str
) -> None:
    """A function that a model could not call is refused before anything is asked."""
    with pytest.raises((ValueError, AmountError), match=message):
        tool(function, **options)


def test_costs_are_amounts() -> None:
    """What people write and microcents mean the same."""
    assert tool(search, cost="0.01USD").cost_microcents == 1_000_000
    assert tool(search, cost=7).cost_microcents == 7
    assert tool(search).cost_microcents == 0


def test_two_tools_of_one_name_are_refused() -> None:
    """A call could mean either."""
    with pytest.raises(ValueError, match="two tools"):
        Toolbox([search, tool(double, name="search")])


def yes(call: ToolCall) -> bool:
    return True


async def no(call: ToolCall) -> bool:
    return False


def breaks(call: ToolCall) -> bool:
    raise EOFError("nobody there")


@pytest.mark.parametrize(
    ("permissions", "denial"),
    [
        (Permissions(), None),
        (Permissions(allow=frozenset({"search"})), None),
        (Permissions(allow=frozenset({"double"})), "not among the allowed"),
        (Permissions(deny=frozenset({"search"})), "is denied"),
        (Permissions(frozenset({"search"}), frozenset({"search"})), "is denied"),
        (Permissions(frozenset({"search"}), frozenset({"search"}), yes), "is denied"),
        (Permissions(frozenset({"search"}), ask=no), None),
        (Permissions(ask=yes), None),
        (Permissions(ask=no), "refused"),
        (Permissions(frozenset({"double"}), ask=yes), None),
        (Permissions(ask=breaks), "asking failed: EOFError: nobody there"),
        (Permissions(ask=lambda call: "of course"), "refused"),  # type: ignore[arg-type,return-value]  # only True is a yes
    ],
)
def test_who_may_use_a_tool(permissions: Permissions, denial: str | None) -> None:
    """Deny, then allow, then ask; a denied tool does not run and the model is told."""
    ran: list[str] = []

    def search(text: str) -> str:
        ran.append(text)
        return "found"

    result = use(Toolbox([search, double], permissions), "search", '{"text": "x"}')
    if denial is None:
        assert (result.text, result.denial, ran) == ("found", None, ["x"])
    else:
        assert denial in (result.denial or "")
        assert result.is_error
        assert ran == []


def test_a_denied_tool_is_not_offered() -> None:
    """A model is not told of what it may never use."""
    box = Toolbox([search, double], Permissions(deny=frozenset({"search"})))
    assert [spec.name for spec in box.specs] == ["double"]


def test_blocking_tools_run_at_the_same_time() -> None:
    """Two blocking tools of one answer meet at a barrier; one after the other could not."""
    both = threading.Barrier(2, timeout=60.0)

    def meet(who: str) -> str:
        both.wait()
        return who

    async def case() -> list[str]:
        box = Toolbox([meet])
        calls = [ToolCall(str(n), "meet", f'{{"who": "{n}"}}') for n in range(2)]
        found = await asyncio.gather(*(box.run(call, deadline=None) for call in calls))
        return [one.text for one in found]

    assert asyncio.run(case()) == ["0", "1"]


def test_a_tool_that_hangs_delays_nobody() -> None:
    """A cancelled call leaves its thread alone, and the loop ends."""
    hung = threading.Event()

    def hang() -> str:
        hung.wait(60)
        return "late"

    async def case() -> None:
        async with asyncio.timeout(0.05):
            await Toolbox([hang]).run(ToolCall("c", "hang"), deadline=None)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(case())
    assert time.monotonic() - began < 20
    hung.set()


def leaves() -> str:
    sys.exit(3)


async def leaves_too() -> str:
    sys.exit(3)


def is_empty() -> str:
    return next(iter(()))


@pytest.mark.parametrize("function", [leaves, leaves_too, is_empty])
def test_a_tool_cannot_end_the_loop_that_runs_it(function: Any) -> None:
    """Neither the process nor the event loop is the tool's: the model is told that it failed."""
    found = use(Toolbox([function]), function.__name__)
    raised = "StopIteration" if function is is_empty else "SystemExit"
    assert found.is_error
    assert raised in found.text


def test_whoever_is_asked_cannot_end_the_loop() -> None:
    """A question that ends in `sys.exit` is a no."""
    box = Toolbox([fails], Permissions(ask=lambda _: sys.exit(3)))
    assert "asking failed" in use(box, "fails").text


def test_a_denial_of_the_ledger_goes_up() -> None:
    """A tool that ran out of budget ends the turn; it is no error for the model."""

    def spend() -> str:
        raise BudgetDenied("no", "BUDGET_EXCEEDED")

    with pytest.raises(BudgetDenied):
        use(Toolbox([spend]), "spend")


def test_a_long_result_is_cut_and_says_so() -> None:
    """A model is told that it does not see everything."""

    def flood() -> str:
        return "x" * (TEXT_MAX + 1)

    result = use(Toolbox([flood]), "flood")
    assert len(result.text) < TEXT_MAX + 100
    assert "cut off: 100001 characters" in result.text
