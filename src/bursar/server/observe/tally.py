"""Plain counts and histograms: what a number costs on the way of a request.

The rule that lives here: each tally has one thread that writes and needs no lock; a reader
takes a copy, which the interpreter makes in one step. What a scrape looks like is decided
when somebody scrapes, not when something is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

Labels = tuple[str, ...]


class Counts:
    """How often something happened, by label values."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self._values: dict[Labels, int] = {}

    def add(self, labels: Labels) -> None:
        """Count one more."""
        self._values[labels] = self._values.get(labels, 0) + 1

    def items(self) -> Iterable[tuple[Labels, int]]:
        """Return label values and counts as they are now."""
        return self._values.copy().items()


class Histogram:
    """How many values were at most each of some bounds, and what they add up to."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the bounds, ascending; what is above the last one is counted too."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return `(upper bound, how many up to it)`, as Prometheus spells them."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, accumulate(self._counts.copy()), strict=True))


class Histograms:
    """One histogram for each value of a label."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the bounds that all of them share."""
        self._bounds = bounds
        self._by_label: dict[str, Histogram] = {}

    def observe(self, label: str, value: float) -> None:
        """Count one value under a label."""
        found = self._by_label.get(label)
        if found is None:
            found = self._by_label[label] = Histogram(self._bounds)
        found.observe(value)

    def items(self) -> Iterable[tuple[str, Histogram]]:
        """Return labels and histograms as they are now."""
        return self._by_label.copy().items()
