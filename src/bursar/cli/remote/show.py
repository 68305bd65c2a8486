"""What a command shows: tables and facts for people, exact JSON for programs.

The rule that lives here: `--json` prints what the wire says, exactly; everything else is
for people, fits the terminal, needs no colour, and cannot be steered by what a server
sends. Notes and warnings go to standard error, so that output can be piped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.box import ASCII2, SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from bursar import money
from bursar.vocabulary import Unit
from bursar.wire.timestamps import format_timestamp

Json = dict[str, Any]
Facts = Iterable[tuple[str, str | Text]]
"""Names and what to show for each; an empty one is left out."""
FOLD_LEAST: Final = 16
GAP: Final = 3
"""Between two columns: a blank on each side of what divides them."""
PIPE_WIDTH: Final = 4_000
"""Columns of what is not a terminal: a row stays one line, for grep."""

_STYLES: Final = {
    "ACTIVE": "green",
    "FROZEN": "cyan",
    "SUSPENDED": "yellow",
    "EXPIRED": "yellow",
    "CLOSED": "dim",
    "DISABLED": "dim",
    "REVOKED": "dim",
    "over limit": "bold red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its title and how a row's cell is made.

    Attributes:
        title: above the column.
        cell: makes the text from a row.
        number: aligned to the right.
        extra: left out first where the terminal is narrow.
        fold: may be folded; what people copy, and figures, may not.
    """

    title: str
    cell: Callable[[Json], str | Text]
    number: bool = False
    extra: bool = False
    fold: bool = False


class Show:
    """Shows results on standard output, in one form or the other."""

    def __init__(self, *, as_json: bool, width: int | None = None, aside: bool = False) -> None:
        """Choose the form; `aside` shows on standard error, `width` is for tests."""
        self.as_json = as_json
        if width is None and not (sys.stderr if aside else sys.stdout).isatty():
            width = PIPE_WIDTH
        self.console = Console(highlight=False, width=width, soft_wrap=False, stderr=aside)

    def document(self, document: object, *, flush: bool = False) -> None:
        """Print JSON, one document."""
        print(json.dumps(document, indent=None if flush else 2, ensure_ascii=True), flush=flush)

    def result(self, document: Json, said: str, facts: Facts) -> None:
        """Show one object: what was done or what it is, and its facts."""
        if self.as_json:
            self.document(document)
            return
        if said:
            self.console.print(Text(printable(said), style="bold"))
        self._facts(facts)

    def listing(
        self, document: Json, rows: Sequence[Json], columns: Sequence[Column], none: str
    ) -> None:
        """Show a list; `none` is what to say where it is empty."""
        if self.as_json:
            self.document(document)
        elif not rows:
            self.note(none)
        else:
            self._print(self.table(rows, columns))
        if document.get("has_more"):
            self.note(f"{len(rows):,} shown, and there are more: raise --limit, or filter")

    def table(self, rows: Sequence[Json], columns: Sequence[Column]) -> RenderableType:
        """Return a table that fits; where nothing fits, one block of lines for each row."""
        kept = list(columns)
        while True:
            widths = [(column, _width(rows, column)) for column in kept]
            natural = sum(width for _, width in widths) + GAP * (len(kept) - 1)
            # What folding can save: each column that may fold, down to a readable width.
            saved = sum(max(0, width - FOLD_LEAST) for column, width in widths if column.fold)
            if natural <= self.console.width:
                return self._table(rows, kept)
            extra = [column for column in kept if column.extra]
            if not extra:
                fits = natural - saved <= self.console.width
                return self._table(rows, kept) if fits else self._blocks(rows, columns)
            kept.remove(extra[-1])

    def text(self, text: str, style: str = "") -> None:
        """Print a line for people; nothing with `--json`."""
        if not self.as_json:
            self.console.print(Text(printable(text), style=style))

    def note(self, text: str) -> None:
        """Say something beside the result; nothing with `--json`, where the document says it."""
        if not self.as_json:
            print(printable(text), file=sys.stderr)

    def warn(self, text: str) -> None:
        """Say that something may go wrong."""
        said = printable(text)
        line = json.dumps({"warning": said}) if self.as_json else f"bursar: warning: {said}"
        print(line, file=sys.stderr)

    def _table(self, rows: Sequence[Json], columns: Sequence[Column]) -> Table:
        box = ASCII2 if self.console.options.ascii_only else SIMPLE_HEAD
        table = Table(box=box, pad_edge=False, show_edge=False, header_style="bold")
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.number else "left",
                no_wrap=not column.fold,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(_cell(column.cell(row)) for column in columns))
        return table

    def _blocks(self, rows: Sequence[Json], columns: Sequence[Column]) -> RenderableType:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        for number, row in enumerate(rows):
            if number:
                grid.add_row()
            for column in columns:
                cell = _cell(column.cell(row))
                if cell.plain:
                    grid.add_row(column.title, cell)
        return grid

    def _facts(self, facts: Facts) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in facts:
            cell = _cell(value)
            if cell.plain:
                grid.add_row(f"  {name}", cell)
        if grid.row_count:
            self._print(grid)

    def _print(self, what: RenderableType) -> None:
        """Print a table; where it is not a terminal, without the blanks at the end of lines."""
        if self.console.is_terminal:
            self.console.print(what)
            return
        with self.console.capture() as captured:
            self.console.print(what)
        for line in captured.get().splitlines():
            print(line.rstrip(), file=self.console.file)


def printable(text: str) -> str:
    """Return text without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def amount(value: object) -> str:
    """Return an amount of the wire as people write it; empty if there is none."""
    if not isinstance(value, Mapping):
        return ""
    unit, size = value.get("unit"), value.get("amount")
    if not isinstance(size, int):
        return str(size)
    known = {known.value: known for known in Unit}.get(str(unit))
    return f"{size:,} {unit}" if known is None else money.show(size, known)


def moment(epoch_ms: object) -> str:
    """Return a time in milliseconds as a date-time; empty if there is none."""
    return format_timestamp(epoch_ms) if isinstance(epoch_ms, int) else ""


def span(ms: object) -> str:
    """Return a length of time in words: `90 s`, `2 h`; empty if there is none."""
    if not isinstance(ms, int):
        return ""
    for size, name in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if ms and ms % size == 0:
            return f"{ms // size:,} {name}"
    return f"{ms:,} ms"


def text_of(row: Json, name: str) -> str:
    """Return a field as text; empty if it is absent."""
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def field(name: str) -> Callable[[Json], str]:
    """Return a cell that shows one field as it is."""
    return lambda row: text_of(row, name)


def amount_field(name: str) -> Callable[[Json], str]:
    """Return a cell that shows one amount."""
    return lambda row: amount(row.get(name))


def status(row: Json) -> Text:
    """Return a status, said in words and in colour."""
    said = text_of(row, "status")
    return Text(printable(said), style=_STYLES.get(said, ""))


def _cell(value: str | Text) -> Text:
    return value if isinstance(value, Text) else Text(printable(value))


def _width(rows: Sequence[Json], column: Column) -> int:
    """Return the columns of a terminal that a column takes unfolded."""
    return max([len(column.title), *(_cell(column.cell(row)).cell_len for row in rows)])
