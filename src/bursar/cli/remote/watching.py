"""`bursar reservations --watch`: the same list, looked at again and again.

The rule that lives here: one look at a time, with a bounded pause between; a server that is
away for a while does not end the watch, one that stays away does, and Ctrl-C ends it
quietly at any moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from bursar.cli.exits import EXIT_NOT_FOUND, EXIT_OK, EXIT_REFUSED, CommandError
from bursar.cli.remote import amounts
from bursar.cli.remote.caller import Caller, part
from bursar.cli.remote.show import Json, Show, amount, text_of
from bursar.clock import SystemClock
from bursar.vocabulary import ReservationStatus
from bursar.wire.timestamps import format_timestamp

INTERVAL_MIN_S: Final = 0.2
INTERVAL_MAX_S: Final = 3_600.0
AWAY_MAX: Final = 10
"""Looks in a row that may fail."""
FOLLOWED_MAX: Final = 50
"""Reservations that left the list and are asked for one by one, in one look."""

PATH = "/v1/reservations"
Change = tuple[str, Json]


def watched(
    caller: Caller,
    query: Mapping[str, str | None],
    at_most: int,
    interval_s: float,
    rounds: int | None,
    show: Show,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Watch until Ctrl-C, or for so many looks; return the exit code.

    Raises:
        CommandError: the first look fails, or too many in a row do.
    """
    if not INTERVAL_MIN_S <= interval_s <= INTERVAL_MAX_S:
        raise amounts.bad(
            f"--interval must be from {INTERVAL_MIN_S} to {INTERVAL_MAX_S:g} seconds, not "
            f"{interval_s:g}"
        )
    looks = None if rounds is None else amounts.positive("--rounds", rounds)
    watch = _Watch(caller, query, at_most)
    with contextlib.suppress(KeyboardInterrupt), _screen(show) as tell:
        while True:
            watch.look(tell)
            if looks is not None and watch.looks >= looks:
                break
            sleep(interval_s)
    return EXIT_OK


class _Watch:
    """What was seen last, and how often in a row nothing could be seen."""

    def __init__(self, caller: Caller, query: Mapping[str, str | None], at_most: int) -> None:
        self._caller = caller
        self._query = query
        self._at_most = at_most
        self._seen: dict[str, Json] = {}
        self._away = 0
        self.looks = 0

    def look(self, tell: _Tell) -> None:
        """Look once and tell what is there and what changed."""
        self.looks += 1
        try:
            found = self._caller.pages(
                PATH, self._query, "reservations", at_most=self._at_most, page_max=200
            )
            rows = {text_of(row, "reservation_id"): row for row in found.rows}
            changes = [*self._changes(rows)]
        except CommandError as error:
            self._away += 1
            if self.looks == 1 or self._away > AWAY_MAX:
                raise
            tell([*self._seen.values()], [], str(error))
            return
        self._away, self._seen = 0, rows
        note = f"the newest {len(rows):,}; there are more" if found.more else ""
        tell(found.rows, changes, note)

    def _changes(self, rows: dict[str, Json]) -> Iterator[Change]:
        for reservation_id, row in reversed(rows.items()):
            before = self._seen.get(reservation_id)
            if before is None:
                yield "new", row
            elif before != row:
                yield "changed", row
        gone = [row for known, row in self._seen.items() if known not in rows]
        for number, row in enumerate(gone):
            after = self._ended(row) if number < FOLLOWED_MAX else row
            # One that is as it was has only been pushed out of the list by newer ones.
            if after != row or number >= FOLLOWED_MAX:
                yield "ended", after

    def _ended(self, row: Json) -> Json:
        """Return how a reservation that left the list stands now."""
        try:
            return self._caller.get(f"{PATH}/{part(text_of(row, 'reservation_id'))}")
        except CommandError as error:
            if error.code == EXIT_REFUSED:  # what has expired is not shown by its id
                return row | {"status": ReservationStatus.EXPIRED.value}
            if error.code == EXIT_NOT_FOUND:
                return row | {"status": "GONE"}
            raise


_Tell = Callable[[list[Json], list[Change], str], None]


@contextlib.contextmanager
def _screen(show: Show) -> Iterator[_Tell]:
    """Give a function that shows a look: in place on a terminal, line by line elsewhere."""
    if show.as_json:
        yield lambda rows, changes, note: _documents(show, changes, note)
    elif not show.console.is_terminal:
        yield lambda rows, changes, note: _lines(show, changes, note)
    else:
        with Live(console=show.console, auto_refresh=False, transient=False) as live:
            yield lambda rows, changes, note: live.update(_picture(show, rows, note), refresh=True)


def _documents(show: Show, changes: list[Change], note: str) -> None:
    for change, row in changes:
        show.document({"at": _now(), "change": change, "reservation": row}, flush=True)
    if note:
        show.warn(note)


def _lines(show: Show, changes: list[Change], note: str) -> None:
    for change, row in changes:
        committed = f", committed {amount(row['committed'])}" if row.get("committed") else ""
        show.text(
            f"{_now()} {change:<7} {text_of(row, 'reservation_id')} {text_of(row, 'status')} "
            f"{text_of(row, 'scope_path')} {amount(row.get('reserved'))}{committed}"
        )
    if note:
        show.note(note)
    show.console.file.flush()


def _picture(show: Show, rows: list[Json], note: str) -> RenderableType:
    from bursar.cli.remote.reservations import COLUMNS

    lines_max = show.console.height - 4
    room = min(len(rows), max(1, lines_max))
    # A row may take several lines, folded or as a block; what is below the screen is not seen.
    while room > 1 and len(show.console.render_lines(show.table(rows[:room], COLUMNS))) > lines_max:
        room -= 1
    left = f"; {len(rows) - room:,} more below" if len(rows) > room else ""
    head = Text(f"{_now()}  {len(rows):,} reservations{left}  Ctrl-C ends", style="dim")
    parts: list[Any] = [head, show.table(rows[:room], COLUMNS)]
    return Group(*parts, Text(note, style="yellow")) if note else Group(*parts)


def _now() -> str:
    return format_timestamp(SystemClock().now_ms())
