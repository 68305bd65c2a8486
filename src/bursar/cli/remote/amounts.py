"""Amounts and scopes as people write them.

The rule that lives here: what a person writes becomes exact integers before anything is
sent, and a refusal names the option that was wrong.
"""

from __future__ import annotations

from typing import Any

from bursar import money
from bursar.cli.exits import EXIT_USAGE, CommandError
from bursar.vocabulary import Unit

Json = dict[str, Any]
LIMIT_MAX = 1_000_000


def read_unit(option: str, written: str | None) -> Unit | None:
    """Return the unit that an option names; `usd` is the one that money is counted in."""
    if written is None:
        return None
    name = written.strip().upper().replace("-", "_").replace(" ", "_")
    if name == "USD":
        return Unit.USD_MICROCENTS
    if name not in tuple(Unit):
        raise bad(f"{option} must be one of {', '.join(Unit)}, or USD, not {written[:80]!r}")
    return Unit(name)


def read(option: str, written: str, unit: Unit | None = None) -> Json:
    """Return an amount as the wire writes it.

    A number without a unit is refused even where the unit is known: `20` at a budget in
    dollars would be 20 dollars to a person, and 20 microcents to the wire.

    Raises:
        CommandError: it cannot be read, or it is in another unit than `unit`.
    """
    try:
        counted_in, size = money.parse(written)
    except money.AmountError as error:
        raise bad(f"{option}: {error}") from None
    if unit is not None and counted_in is not unit:
        raise bad(f"{option} is in {counted_in.value}, but this counts in {unit.value}")
    return {"unit": counted_in.value, "amount": size}


def maybe(option: str, written: str | None, unit: Unit | None = None) -> Json | None:
    """Return an amount that may be left out."""
    return None if written is None else read(option, written, unit)


def tenant_of(scope: str) -> str:
    """Return the tenant that a scope begins with.

    Raises:
        CommandError: it begins with something else.
    """
    kind, _, rest = scope.partition(":")
    tenant = rest.partition("/")[0]
    if kind.lower() != "tenant" or not tenant:
        raise bad(
            f"a scope begins with its tenant, like tenant:acme/agent:reader, not {scope[:200]!r}"
        )
    return tenant.lower()


def pairs(option: str, written: list[str] | None) -> dict[str, str] | None:
    """Return `NAME=VALUE` options as an object; None if there are none."""
    if not written:
        return None
    found = {}
    for item in written:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise bad(f"{option} is written NAME=VALUE, not {item[:80]!r}")
        found[name] = value
    return found


def present(**fields: Any) -> Json:
    """Return the fields that are given; an absent one is left out, not null."""
    return {name: value for name, value in fields.items() if value is not None}


def changes(fields: Json) -> Json:
    """Return what an update changes; nothing at all is a mistake.

    Raises:
        CommandError: no option says what to change.
    """
    if not fields:
        raise bad("nothing to change: give at least one option; --help lists them")
    return fields


def positive(option: str, number: int) -> int:
    """Return a number of at least 1 and not absurd.

    Raises:
        CommandError: it is not.
    """
    if not 1 <= number <= LIMIT_MAX:
        raise bad(f"{option} must be from 1 to {LIMIT_MAX}, not {number}")
    return number


def fraction(option: str, part: float | None) -> float | None:
    """Return a part of a whole that may be left out.

    Raises:
        CommandError: it is not from 0 to 1.
    """
    if part is not None and not 0 <= part <= 1:
        raise bad(f"{option} must be from 0 to 1, such as 0.9 for nine tenths, not {part:g}")
    return part


def bad(message: str) -> CommandError:
    """Return the error for something that was written wrongly."""
    return CommandError(EXIT_USAGE, message)
