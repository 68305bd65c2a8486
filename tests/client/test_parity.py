"""Each asynchronous class of the SDK has the shape of its synchronous twin.

The pairs are found, not listed: every `AsyncX` beside an `X`. What a pair may differ in is below,
each with its reason; a difference that is not there is drift.
"""

import importlib
import inspect
import pkgutil
import re
from typing import Any

import pytest

import bursar.client

# How a member is called in the other shell.
TWINS = {"close": "aclose", "__enter__": "__aenter__", "__exit__": "__aexit__"}

# (class, member of it) -> why only this shell has it.
ONE_SIDED = {
    ("AsyncTransport", "blocking"): "the end of the process has no event loop to send from",
    ("AsyncHttpTransport", "blocking"): "the end of the process has no event loop to send from",
    ("AsyncEmbeddedLedger", "blocking"): "the end of the process has no event loop to send from",
    ("AsyncEmbeddedLedger", "ledger"): "it is a shell around the blocking one",
}
# Classes of which the asynchronous one wraps the other: members that it passes on are no pair.
WRAPPERS = {"AsyncEmbeddedLedger": {"send", "close"}}
# What names a shell, in annotations and in prose, and nothing else.
WORDS = (
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync(hronous)? ", ""),
    (r"\bsync(hronous)? ", ""),
    (r"\bAn\b", "A"),
    (r"\ban\b", "a"),
)
# (class, member of it) -> why its sentence is another one.
SAYS_MORE = {
    ("AsyncHttpTransport", "__init__"): "connections belong to an event loop",
    ("AsyncHttpTransport", "close"): "connections belong to an event loop",
}
# What Python itself passes; how it is unpacked is nobody's interface.
GIVEN_BY_PYTHON = {"__exit__"}
NOT_TWINS = {"AsyncIo": "`Io` is what both shells implement, and `BlockingIo` is the other one"}
SUPERVISED = {"supervisor"}
"""Parameters of constructors that only an event loop needs."""


def classes() -> dict[str, type]:
    """Return the classes that the SDK's modules define, by name."""
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(bursar.client.__path__, "bursar.client."):
        module = importlib.import_module(info.name)
        found |= {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == info.name
        }
    return found


CLASSES = classes()
PAIRS = sorted(
    (name, f"Async{name}")
    for name in CLASSES
    if not name.startswith("_") and f"Async{name}" in CLASSES and f"Async{name}" not in NOT_TWINS
)


def members(kind: type) -> dict[str, Any]:
    """Return what users may call or read, with its own name in the synchronous shell."""
    back = {asynchronous: blocking for blocking, asynchronous in TWINS.items()}
    return {
        back.get(name, name): member
        for name, member in inspect.getmembers_static(kind)
        if (not name.startswith("_") or name in TWINS or name in back or name == "__init__")
        and (kind.__name__, name) not in ONE_SIDED
    }


def function_of(member: Any) -> Any:
    """Return the function behind a member, or None for a plain value."""
    if isinstance(member, property):
        return member.fget
    function = getattr(member, "__func__", member)
    return function if callable(function) else None


def parameters(function: Any) -> list[tuple[str, str, object]]:
    """Return name, kind and default of each parameter, in order."""
    return [
        (parameter.name, parameter.kind.description, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in SUPERVISED
    ]


def prose(text: str | None) -> str:
    """Return a docstring without what names the shell."""
    text = inspect.cleandoc(text or "")
    for pattern, instead in WORDS:
        text = re.sub(pattern, instead, text)
    return " ".join(text.split())


def drift(one: Any, other: Any, *, called: bool = True, told: bool = True) -> list[str]:
    """Return in what two members differ: how they are `called`, what is `told` of them."""
    mine, theirs = function_of(one), function_of(other)
    if (mine is None) != (theirs is None) or isinstance(one, property) != isinstance(
        other, property
    ):
        return ["they are of different kinds"]
    if mine is None:
        return []
    found = []
    if called and parameters(mine) != parameters(theirs):
        found.append(f"parameters {parameters(mine)} and {parameters(theirs)}")
    if told and prose(mine.__doc__) != prose(theirs.__doc__):
        found.append(f"docstrings {prose(mine.__doc__)!r} and {prose(theirs.__doc__)!r}")
    return found


def test_the_pairs_are_found() -> None:
    """Otherwise the tests below compare nothing, or a class with itself."""
    named = {blocking for blocking, _ in PAIRS}
    assert {"CyclesClient", "ReservationGuard", "StreamHandle", "StreamReservation"} <= named
    assert {"TypedCalls", "EmbeddedClient", "HttpTransport"} <= named
    assert all(CLASSES[one] is not CLASSES[other] for one, other in PAIRS)
    orphans = {name for name in CLASSES if name.startswith("Async")} - {b for _, b in PAIRS}
    assert orphans == set(NOT_TWINS), "an Async class without a twin"


def test_every_exception_is_still_needed() -> None:
    """What may differ exists, and does differ."""
    for (name, member), why in {**ONE_SIDED, **SAYS_MORE}.items():
        assert why
        assert hasattr(CLASSES[name], TWINS.get(member, member)) or name in WRAPPERS, member
    for name, member in SAYS_MORE:
        mine, theirs = members(CLASSES[name.removeprefix("Async")]), members(CLASSES[name])
        assert drift(mine[member], theirs[member], called=False), member


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both_shells_have_the_same_members(one: str, other: str) -> None:
    """What the one can do, the other can."""
    passed_on = WRAPPERS.get(other)
    mine, theirs = set(members(CLASSES[one])), set(members(CLASSES[other]))
    if passed_on is not None:
        assert passed_on <= mine & theirs
    else:
        assert mine == theirs


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_each_member_is_the_same_in_both_shells(one: str, other: str) -> None:
    """Parameters in order, kind and default; docstrings, and with them the errors raised."""
    mine, theirs = members(CLASSES[one]), members(CLASSES[other])
    shared = WRAPPERS.get(other, set(mine) & set(theirs))
    assert shared, "nothing is compared"
    for name in sorted(shared):
        called, told = name not in GIVEN_BY_PYTHON, (other, name) not in SAYS_MORE
        assert drift(mine[name], theirs[name], called=called, told=told) == [], name


def test_what_reads_or_waits_is_asynchronous_in_one_shell_only() -> None:
    """A synchronous shell has no coroutine function; its twin differs in nothing else."""
    coroutines = 0
    for one, other in PAIRS:
        mine, theirs = members(CLASSES[one]), members(CLASSES[other])
        for name in set(mine) & set(theirs):
            blocking, waiting = function_of(mine[name]), function_of(theirs[name])
            assert not inspect.iscoroutinefunction(blocking), (one, name)
            assert not inspect.isasyncgenfunction(blocking), (one, name)
            assert inspect.isgeneratorfunction(blocking) == inspect.isasyncgenfunction(waiting)
            coroutines += inspect.iscoroutinefunction(waiting)
    assert coroutines > 30


class Calls:
    """Calls."""

    def read(self, name: str, limit: int = 1) -> None:
        """Read one."""


class AsyncCalls:
    """Calls."""

    async def read(self, name: str, limit: int = 2) -> None:
        """Read many."""


def test_the_comparison_finds_drift() -> None:
    """Another default, another order, another sentence, another kind."""
    found = drift(Calls.read, AsyncCalls.read)
    assert len(found) == 2
    assert "docstrings" in found[1]
    assert drift(Calls.read, Calls.read) == []
    assert drift(Calls.read, property(lambda self: 1)) == ["they are of different kinds"]
