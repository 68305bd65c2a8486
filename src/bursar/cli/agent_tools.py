"""The tools that `bursar agent run --tools` was given.

The rule that lives here: a module that cannot be used, and a name that is no tool's, is told
before anybody is asked: `--deny serach` would let search run.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bursar.agent import SubAgent
from bursar.agent.tools import Permissions, Tool, Toolbox
from bursar.cli.exits import EXIT_USAGE, CommandError


def toolbox(where: str | None, allow: frozenset[str] | None, deny: frozenset[str]) -> Toolbox:
    """Return the tools of a module, with who may use them.

    Raises:
        CommandError: the module or one of its tools cannot be used, or a name is none of them.
    """
    try:
        box = Toolbox(_tools(where), Permissions(allow, deny))
    except CommandError:
        raise
    except Exception as error:  # whatever pydantic or Python find in its annotations
        raise CommandError(EXIT_USAGE, f"--tools: {where}: {error}") from error
    for option, names in (("--allow", allow), ("--deny", deny)):
        for name in sorted(names or ()):
            if name not in box.tools:
                known = ", ".join(box.tools) or "none; --tools names a module that has some"
                raise CommandError(
                    EXIT_USAGE, f"{option}: there is no tool {name!r}; there are: {known}"
                )
    return box


def _tools(where: str | None) -> list[Callable[..., Any] | SubAgent]:
    """Return the functions and sub-agents that a module offers."""
    if where is None:
        return []
    try:
        module = _from_file(where) if where.endswith(".py") else importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise CommandError(
            EXIT_USAGE, f"--tools: {where} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    listed = getattr(module, "TOOLS", None)
    if listed is not None:
        if not isinstance(listed, list | tuple | set):
            why = f"TOOLS must be a list of functions, not {type(listed).__name__}"
            raise CommandError(EXIT_USAGE, f"--tools: {where}: {why}")
        for one in listed:
            if not isinstance(one, Tool | SubAgent) and not callable(one):
                why = f"TOOLS has {one!r}, which is no function"
                raise CommandError(EXIT_USAGE, f"--tools: {where}: {why}")
        return list(listed)
    return [
        one
        for name, one in vars(module).items()
        if name[0] != "_" and (isinstance(one, SubAgent) or _is_its_own(one, module))
    ]


def _is_its_own(one: object, module: ModuleType) -> bool:
    return inspect.isfunction(one) and one.__module__ == module.__name__


def _from_file(where: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bursar_tools_{Path(where).stem}", where)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
