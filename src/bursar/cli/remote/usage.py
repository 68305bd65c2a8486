"""How much of a budget is used, as columns and as a bar.

The rule that lives here: used is what can no longer be reserved, spent or held; a budget in
debt is more than full, and says so in figures.
"""

from __future__ import annotations

from typing import Any, Final

from rich.text import Text

from bursar.cli.remote.show import Column, amount_field, status, text_of

Json = dict[str, Any]
WIDTH: Final = 10


def used(row: Json) -> float | None:
    """Return the used part of what is allocated; None where nothing is."""
    allocated, remaining = (_size(row, name) for name in ("allocated", "remaining"))
    return None if not allocated or remaining is None else (allocated - remaining) / allocated


def bar(row: Json, *, ascii_only: bool = False) -> Text:
    """Return the used part as a bar and in percent."""
    part = used(row)
    if part is None:
        return Text("")
    # A little is shown as something and nearly all as not quite all.
    filled = min(WIDTH, max(int(part * WIDTH), 1 if part > 0 else 0))
    full, empty = ("#", ".") if ascii_only else ("█", "░")
    style = "red" if part >= 0.9 else "yellow" if part >= 0.7 else "green"
    drawn = Text(full * filled + empty * (WIDTH - filled), style=style)
    return drawn.append(f" {int(part * 100):>3}%", style="")


def state(row: Json) -> Text:
    """Return the status, or that the budget is over its limit."""
    return Text("over limit", style="bold red") if row.get("is_over_limit") else status(row)


def scope(row: Json) -> str:
    """Return a budget's whole scope."""
    return text_of(row, "scope_path") or text_of(row, "scope")


COLUMNS: Final = (
    Column("scope", scope, fold=True),
    Column("allocated", amount_field("allocated"), number=True),
    Column("remaining", amount_field("remaining"), number=True),
    Column("spent", amount_field("spent"), number=True),
    Column("reserved", amount_field("reserved"), number=True),
    Column("debt", amount_field("debt"), number=True),
    Column("used", bar),
    Column("state", state),
    Column("unit", lambda row: text_of(row, "unit"), extra=True),
)


def _size(row: Json, name: str) -> int | None:
    value = row.get(name)
    size = value.get("amount") if isinstance(value, dict) else None
    return size if isinstance(size, int) else None
