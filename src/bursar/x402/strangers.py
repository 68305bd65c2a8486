"""JSON that a stranger sent, read once.

The rule that lives here: text that cannot be read is a `ValueError`, whatever is wrong with it.
An answer that is nested a hundred thousand deep is no reason to fall over, and one that is
nested less is not handed on to code which would.
"""

from __future__ import annotations

import json
from typing import Any, Final

DEPTH_MAX: Final = 64
"""No answer of a chain, of a facilitator or of a merchant is nested deeper than a few levels."""


def read_json(text: str | bytes) -> Any:
    """Return what a text says.

    Raises:
        ValueError: it is no JSON, or nested deeper than `DEPTH_MAX`.
    """
    try:
        read = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep to be read") from None
    depth, level = 0, _nests([read])
    while level:
        if (depth := depth + 1) > DEPTH_MAX:
            raise ValueError(f"nested deeper than {DEPTH_MAX}")
        level = [below for each in level for below in _nests(each)]
    return read


def _nests(value: dict[str, Any] | list[Any]) -> list[Any]:
    """Return what is nested right inside a value."""
    inside = value.values() if isinstance(value, dict) else value
    return [each for each in inside if isinstance(each, dict | list)]
