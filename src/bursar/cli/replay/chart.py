"""A column chart of what each minute of the trace cost, in plain text.

The rule that lives here: the chart is as wide as the terminal allows and never wider,
however long the trace is; where a column stands for several minutes it shows their average
and says so. Without Unicode it falls back to ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bursar.cli.replay.tally import MINUTE_TICKS, Minute
from bursar.cli.replay.trace import shown_time

HEIGHT = 8
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_ASCII = " ...:::##"  # the same nine steps, in what every terminal has
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines to print, from the top. `denied` marks the columns with denials; empty if none."""

    title: str
    bars: Sequence[str]
    denied: str
    axis: str


def chart(minutes: Mapping[int, Minute], width: int, *, ascii_only: bool = False) -> Chart | None:
    """Draw the minutes within `width` columns; None if there is nothing to draw."""
    if not minutes:
        return None
    first, last = min(minutes), max(minutes)
    width = max(width, 20)
    per_column = -(-(last - first + 1) // width)
    columns = (last - first) // per_column + 1
    spent, denied = [0] * columns, [False] * columns
    for minute, what in minutes.items():
        column = (minute - first) // per_column
        spent[column] += what.spent_amount
        denied[column] = denied[column] or what.denied > 0
    title = "cost per minute"
    if per_column > 1:
        title += f"; each column is {per_column:,} minutes and shows their average"
    return Chart(
        title=title,
        bars=_bars(spent, _ASCII if ascii_only else _EIGHTHS),
        denied="".join("x" if any_denied else " " for any_denied in denied).rstrip(),
        axis=_axis(first, last, columns),
    )


def busiest(minutes: Mapping[int, Minute]) -> tuple[str, int] | None:
    """Return the minute that cost most, as text, and what it cost; the first one of a tie."""
    if not minutes:
        return None
    minute = max(minutes, key=lambda one: (minutes[one].spent_amount, -one))
    return shown_minute(minute), minutes[minute].spent_amount


def shown_minute(minute: int) -> str:
    """Return a minute of the trace as `2023-11-16 18:17`."""
    return shown_time(minute * MINUTE_TICKS)[:16]


def _bars(values: Sequence[int], steps: str) -> list[str]:
    """Return rows from the top; the largest value fills the height, and no cost is invisible."""
    top = max(values)
    if top == 0:
        return []
    eighths = [-(-value * HEIGHT * 8 // top) for value in values]
    return [
        "".join(steps[min(8, max(0, value - row * 8))] for value in eighths).rstrip()
        for row in reversed(range(HEIGHT))
    ]


def _axis(first: int, last: int, columns: int) -> str:
    """Return the times under the first and last column; the day only where it matters."""
    whole = last - first >= _DAY_MINUTES
    left, right = (shown_minute(one)[0 if whole else 11 :] for one in (first, last))
    if len(left) + 1 + len(right) > columns:
        return f"{left} to {right}" if first != last else left
    return left + right.rjust(columns - len(left))
