"""The fields of a session's file, each checked when it is read.

The rule that lives here: what is wrong is named by its place in the file and by what belongs
there, such as `turns[3].spent must be a whole number from 0 to 9223372036854775807`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from bursar.vocabulary import AMOUNT_MAX

T = TypeVar("T")


class Wrong(Exception):
    """A field that is not what belongs there."""

    def __init__(self, where: str, must: str) -> None:
        """Say which field, and what it must be."""
        super().__init__(f"{where or 'the document'} must be {must}")


class Fields:
    """An object of the file; `where` is its place."""

    def __init__(self, found: Any, where: str = "") -> None:
        """Take what should be an object.

        Raises:
            Wrong: it is something else.
        """
        if not isinstance(found, dict):
            raise Wrong(where, "an object")
        self._found, self._where = found, where

    def value(self, name: str) -> Any:
        """Return a field that must be there."""
        if name not in self._found:
            raise Wrong(self._at(name), "there, and is missing")
        return self._found[name]

    def has(self, name: str) -> bool:
        """Return whether there is a field of this name; files of earlier versions have fewer."""
        return name in self._found

    def fields(self, name: str) -> Fields:
        """Return an object."""
        return Fields(self.value(name), self._at(name))

    def text(self, name: str, *, among: Sequence[str] = ()) -> str:
        """Return a text, one of a few if they are given."""
        found = _text(self.value(name), self._at(name))
        if among and found not in among:
            raise Wrong(self._at(name), f"one of {', '.join(among)}")
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(_text(one, where) for one, where in self._list(name))

    def count(self, name: str) -> int:
        """Return a number of things."""
        found = self.value(name)
        if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= AMOUNT_MAX:
            raise Wrong(self._at(name), f"a whole number from 0 to {AMOUNT_MAX}")
        return found

    def flag(self, name: str) -> bool:
        """Return true or false."""
        return _flag(self.value(name), self._at(name))

    def each(self, name: str) -> Iterator[Fields]:
        """Yield the objects of a list."""
        return (Fields(one, where) for one, where in self._list(name))

    def rows(self, name: str, make: Callable[..., T], *columns: str) -> tuple[T, ...]:
        """Return what `make` makes of each row of a list.

        A column is a text; one that ends in `?` may be null, one that ends in `!` is a flag.
        """
        return tuple(make(*_row(one, where, columns)) for one, where in self._list(name))

    def _at(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name

    def _list(self, name: str) -> Iterator[tuple[Any, str]]:
        found = self.value(name)
        if not isinstance(found, list):
            raise Wrong(self._at(name), "a list")
        return ((one, f"{self._at(name)}[{number}]") for number, one in enumerate(found))


def _row(found: Any, where: str, columns: tuple[str, ...]) -> list[Any]:
    if not isinstance(found, list) or len(found) != len(columns):
        raise Wrong(where, f"a list of {', '.join(one.rstrip('?!') for one in columns)}")
    return [
        _cell(one, f"{where}[{number}]", column)
        for number, (one, column) in enumerate(zip(found, columns, strict=True))
    ]


def _cell(found: Any, where: str, column: str) -> Any:
    if column.endswith("!"):
        return _flag(found, where)
    if column.endswith("?") and found is None:
        return None
    return _text(found, where)


def _text(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise Wrong(where, "text")
    return found


def _flag(found: Any, where: str) -> bool:
    if not isinstance(found, bool):
        raise Wrong(where, "true or false")
    return found
