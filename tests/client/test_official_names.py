"""Every public name of the official client, held against ours: signatures, members, values.

Code that was written for the official client must keep working after its import is changed,
so what it can call must be here, take the same arguments in the same order, and default to the
same values. More arguments and members are fine.
"""

import dataclasses
import enum
import inspect
import re
from typing import Any

import pytest
import runcycles
from pydantic import BaseModel

import bursar

# Members of official classes that are no promise to users.
NOT_OURS = {("CyclesEvidenceRef", "require_absolute_uri")}
KEYWORD = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
POSITIONAL = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


OURS = {name: getattr(bursar, name) for name in runcycles.__all__}


def differences(theirs: Any, mine: Any) -> list[str]:
    """Say how a call that was written for `theirs` could fail with `mine`."""
    expected = list(inspect.signature(theirs).parameters.values())
    given = list(inspect.signature(mine).parameters.values())
    by_name = {parameter.name: parameter for parameter in given}
    found = []
    for parameter in expected:
        other = by_name.get(parameter.name)
        if other is None:
            found.append(f"{parameter.name} is missing")
        elif other.kind != parameter.kind and not {other.kind, parameter.kind} <= KEYWORD:
            found.append(f"{parameter.name} is {other.kind.description}")
        elif parameter.default != other.default and not both_make_values(parameter, other):
            found.append(f"{parameter.name} defaults to {other.default!r}")
    positional = [p.name for p in expected if p.kind in POSITIONAL]
    if positional != [p.name for p in given if p.kind in POSITIONAL][: len(positional)]:
        found.append(f"the order is not {positional}")
    known = {parameter.name for parameter in expected}
    found += [
        f"{p.name} is required"
        for p in given
        if p.name not in known and p.default is p.empty and p.kind not in VARIADIC
    ]
    return found


def both_make_values(one: inspect.Parameter, other: inspect.Parameter) -> bool:
    """Return whether both defaults are a dataclass's `default_factory`."""
    return repr(one.default) == repr(other.default) == "<factory>"


def members(kind: type) -> dict[str, Any]:
    """Return what a user may ask of a class, without what pydantic and Exception give."""
    given = {name for base in (BaseModel, Exception, str) for name in dir(base)} | {"name", "value"}
    return {
        name: member
        for name, member in inspect.getmembers_static(kind)
        if not name.startswith("_") and name not in given
    }


def attributes(kind: type) -> set[str]:
    """Return what the instances of a class have that the class itself does not show."""
    found = {f.name for f in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    for base in kind.__mro__:
        if base.__module__.startswith("bursar."):
            found |= set(re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(base)))
    return found


def test_every_name_is_public_here() -> None:
    """Changing the import is enough: `from bursar import *` brings every official name."""
    assert set(runcycles.__all__) - set(bursar.__all__) == set()


@pytest.mark.parametrize("name", sorted(OURS))
def test_calls_still_work(name: str) -> None:
    """Functions and constructors take what they took."""
    theirs, mine = getattr(runcycles, name), OURS[name]
    if isinstance(theirs, type) and issubclass(theirs, enum.Enum):
        assert [(m.name, m.value) for m in theirs] == [(m.name, m.value) for m in mine]
    elif isinstance(theirs, type) and issubclass(theirs, BaseModel):
        assert set(theirs.model_fields) <= set(mine.model_fields)
    elif not (isinstance(theirs, type) and theirs.__init__ is mine.__init__):
        assert differences(theirs, mine) == []


@pytest.mark.parametrize("name", sorted(n for n in OURS if isinstance(OURS[n], type)))
def test_members_still_work(name: str) -> None:
    """Each method, property and field of an official class is here, of the same kind."""
    theirs, mine = getattr(runcycles, name), OURS[name]
    fields = attributes(mine)
    for member, expected in members(theirs).items():
        if (name, member) in NOT_OURS:
            continue
        assert hasattr(mine, member) or member in fields, member
        found = inspect.getattr_static(mine, member, None)
        assert isinstance(expected, property) <= (isinstance(found, property) or member in fields)
        if callable(getattr(theirs, member)):
            assert differences(getattr(theirs, member), getattr(mine, member)) == [], member
            asynchronous = inspect.iscoroutinefunction(getattr(theirs, member))
            assert asynchronous == inspect.iscoroutinefunction(getattr(mine, member)), member


@pytest.mark.parametrize("name", sorted(n for n in OURS if isinstance(OURS[n], type)))
def test_hierarchies_still_hold(name: str) -> None:
    """A handler that caught an exception, and a check for text, still do."""
    theirs, mine = getattr(runcycles, name), OURS[name]
    bases = [base.__name__ for base in theirs.__mro__ if base.__name__ in runcycles.__all__]
    assert set(bases) <= {base.__name__ for base in mine.__mro__} | {name}
    assert issubclass(theirs, str) == issubclass(mine, str)
    assert issubclass(theirs, Exception) == issubclass(mine, Exception)


@pytest.mark.parametrize("name", sorted(n for n in OURS if dataclasses.is_dataclass(OURS[n])))
def test_fields_keep_their_order(name: str) -> None:
    """Positional arguments of the dataclasses mean what they meant."""
    theirs = [field.name for field in dataclasses.fields(getattr(runcycles, name))]
    assert theirs == [field.name for field in dataclasses.fields(OURS[name])][: len(theirs)]


@pytest.mark.parametrize(
    ("theirs", "mine", "said"),
    [
        (lambda a, b=1: 0, lambda a, b=1, *, c=2: 0, []),
        (lambda a, *, b=1: 0, lambda a, b=1: 0, []),
        (lambda a: 0, lambda: 0, ["a is missing", "the order is not ['a']"]),
        (lambda a, b: 0, lambda b, a: 0, ["the order is not ['a', 'b']"]),
        (lambda a=1: 0, lambda a=2: 0, ["a defaults to 2"]),
        (lambda a: 0, lambda a, b: 0, ["b is required"]),
        (lambda a: 0, lambda *, a: 0, ["the order is not ['a']"]),
        (lambda **a: 0, lambda a: 0, ["a is positional or keyword"]),
    ],
)
def test_the_comparison_finds_what_breaks(theirs: Any, mine: Any, said: list[str]) -> None:
    """Otherwise the tests above prove nothing."""
    assert differences(theirs, mine) == said
