"""What the demo looks like: titles, live progress, tables, checks.

The rule that lives here: nothing is wider than the terminal and nothing depends on colour.
On a terminal progress is drawn in place; elsewhere it is a line a second; beside `--json`
without a terminal there is none.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 1.0
FRAMES_PER_S = 8
INDENT = 2
Advance = Callable[[int, str], None]
_LEVELS = " ▁▂▃▄▅▆▇█"
_ASCII_LEVELS = " .:-=+*#@"


def console_for(*, as_json: bool) -> Console:
    """Return where to show things; standard output belongs to the JSON object if asked for."""
    if not as_json:
        return Console(highlight=False)
    if sys.stderr.isatty():
        return Console(stderr=True, highlight=False)
    return Console(quiet=True)


class Show:
    """Prints scenes on one console."""

    def __init__(self, console: Console) -> None:
        """Print on `console`."""
        self.console = console

    @property
    def ascii_only(self) -> bool:
        """Whether the console has no more than ASCII."""
        return self.console.options.ascii_only

    @property
    def width(self) -> int:
        """Columns that a table or a chart may take."""
        return self.console.width - INDENT

    def text(self, text: str, style: str = "") -> None:
        """Print a paragraph."""
        self.console.print(Text(text, style=style))

    def title(self, title: str, sentence: str) -> None:
        """Open a scene."""
        self.console.print()
        self.console.rule(Text(title, style="bold"), align="left", style="dim")
        self._indented(Text(sentence, style="dim"))

    def tables(self, tables: Iterable[RenderableType]) -> None:
        """Print what a scene saw."""
        for table in tables:
            self.console.print()
            self._indented(table)
        self.console.print()

    def check(self, says: str, held: bool) -> None:
        """Print one check; one that did not hold says so in words, too."""
        good, bad = ("ok", "NO") if self.ascii_only else ("✓", "✗")
        line = Table.grid(padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(overflow="fold")
        if held:
            line.add_row(Text(good, style="green"), Text(says))
        else:
            line.add_row(Text(bad, style="bold red"), Text(f"DID NOT HOLD: {says}", style="red"))
        self._indented(line)

    @contextlib.contextmanager
    def watch(
        self, label: str, total: int, picture: Callable[[], RenderableType] | None = None
    ) -> Iterator[Advance]:
        """Show how far something has come, for as long as it takes.

        Args:
            label: what is done.
            total: when it is complete.
            picture: drawn below the bar on a terminal, anew for each frame.

        Yields:
            A function to call with what is done so far and a note of a few words.
        """
        if self.console.quiet:
            yield lambda done, note: None
        elif not self.console.is_terminal:
            yield self._lines(label, total)
        else:
            bar = Progress(
                TextColumn(" " * INDENT + "{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
                console=self.console,
            )
            task = bar.add_task(label, total=total, note="")

            def frame() -> RenderableType:
                return bar if picture is None else Group(bar, Padding(picture(), (0, INDENT)))

            with Live(
                get_renderable=frame,
                console=self.console,
                transient=True,
                refresh_per_second=FRAMES_PER_S,
            ):
                yield lambda done, note: bar.update(task, completed=done, note=note)

    def _lines(self, label: str, total: int) -> Advance:
        last = time.monotonic()

        def advance(done: int, note: str) -> None:
            nonlocal last
            if time.monotonic() - last >= LINE_EVERY_S:
                last = time.monotonic()
                told = f"; {note}" if note else ""
                self._indented(Text(f"{label}: {done:,} of {total:,}{told}", style="dim"))

        return advance

    def _indented(self, what: RenderableType) -> None:
        self.console.print(Padding(what, (0, 0, 0, INDENT), expand=False))


def table(*columns: str) -> Table:
    """Return an empty table; a column whose name begins with `>` is set to the right."""
    made = Table(
        box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", border_style="dim"
    )
    for name in columns:
        right = name.startswith(">")
        made.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return made


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Return a table of names and values; values may take several lines."""
    made = Table.grid(padding=(0, 3, 0, 0))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, Text(value))
    return made


def crowd(done: Sequence[int], total: int, denied: Sequence[bool], *, ascii_only: bool) -> Text:
    """Draw a crowd of agents, one column each, as high as it has come; red once denied."""
    levels = _ASCII_LEVELS if ascii_only else _LEVELS
    drawn = Text(no_wrap=True, overflow="crop")
    for count, was_denied in zip(done, denied, strict=True):
        level = -(-count * (len(levels) - 1) // total)
        drawn.append(levels[level], style="red" if was_denied else "cyan")
    return drawn
