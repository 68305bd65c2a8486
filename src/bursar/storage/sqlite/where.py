"""Conditions of a query and the values that go with them.

The rule that lives here: a value never becomes part of a statement's text, and an absent
filter adds nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bursar.ledger.ports import After


class Where:
    """Conditions joined with AND, and their values."""

    def __init__(self) -> None:
        """Start without any condition."""
        self.conditions: list[str] = []
        self.values: list[Any] = []

    def add(self, condition: str, value: Any) -> None:
        """Add a condition with one `?`, unless its value is None (an absent filter)."""
        if value is not None:
            self.conditions.append(condition)
            self.values.append(value)

    def segments(self, column: str, segments: Mapping[str, str]) -> None:
        """Require whole segments anywhere in a path; no pattern matching is involved."""
        for kind, value in segments.items():
            if "/" in value:
                self.conditions.append("false")  # it would match two segments as one
            self.add(f"instr('/' || {column} || '/', ?) > 0", f"/{kind}:{value.lower()}/")

    def within(self, column: str, scope_filter: Sequence[str]) -> None:
        """Require that a key's scope filter admits a path (`core.scopes.within_filter`).

        Entries are asked for as text between slashes: a segment or the beginning of one
        anywhere, several segments at the beginning. They travel as two JSON lists, since
        thousands of conditions joined with OR would be too deep for the parser.
        """
        if not scope_filter:
            return
        anywhere: list[str] = []
        ahead: list[str] = []
        for entry in map(str.lower, scope_filter):
            if "/" in entry:
                ahead += [] if entry.endswith(":*") else [f"/{entry}/"]
            else:
                anywhere.append(f"/{entry[:-1]}" if entry.endswith(":*") else f"/{entry}/")
        path = f"'/' || {column} || '/'"
        self.conditions.append(
            f"(EXISTS (SELECT 1 FROM json_each(?) AS part WHERE instr({path}, part.value) > 0) "
            f"OR EXISTS (SELECT 1 FROM json_each(?) AS part WHERE instr({path}, part.value) = 1))"
        )
        self.values += [json.dumps(anywhere), json.dumps(ahead)]

    def search(self, first: str, second: str, part: str | None) -> None:
        """Require `part` somewhere in one of two columns, whatever its case."""
        if part:
            self.conditions.append(f"(instr(fold({first}), ?) > 0 OR instr(fold({second}), ?) > 0)")
            self.values += [part.casefold()] * 2

    def after(self, sort: str, row_id: str, descending: bool, after: After | None) -> None:
        """Start behind a page's last row; ties are broken by id, ascending."""
        if after is not None:
            value, last_id = after
            sign = "<" if descending else ">"
            self.conditions.append(f"({sort} {sign} ? OR ({sort} = ? AND {row_id} > ?))")
            self.values += [value, value, last_id]

    def one_of(self, column: str, values: Iterable[str]) -> None:
        """Require one of several values."""
        listed = list(values)
        self.conditions.append(f"{column} IN ({', '.join('?' * len(listed))})")
        self.values += listed

    def sql(self) -> str:
        """Return the conditions, joined."""
        return " AND ".join(self.conditions) or "true"
