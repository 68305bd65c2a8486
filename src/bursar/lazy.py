"""The door of a package: its names, each loaded when somebody first asks for it.

The rule that lives here: importing a package imports none of its modules. A door is a table from
module to names and nothing else is offered, so that a misspelt name is an `AttributeError` and
never an import that happens to work. Type checkers do not see the table; they see the imports
beside it, and `tests/test_public_api.py` holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def door(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__all__`, `__getattr__` and `__dir__` of a package.

    Args:
        package: its name, which is `__name__` there.
        modules: each module with the names that users import from the package.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return sorted(homes), load, names
