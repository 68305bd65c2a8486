"""Imports go down only.

The table below is the architecture. Every module under `src/bursar` is parsed, its imports are
resolved (relative ones and those inside functions and `TYPE_CHECKING` too: a type that comes from
above is still a dependency), and each is held against the row of its package.
"""

import ast
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "bursar"

GROUND = {"vocabulary", "money", "invariant", "clock", "ids", "flow", "lazy", "version"}
ONLY_STDLIB: set[str] = set()

# What a package may import of Bursar, besides itself and the ground floor. A dotted entry allows
# that module alone. The most specific row wins.
MAY_IMPORT: dict[str, set[str]] = {
    **{module: set() for module in GROUND},
    "": {"client", "payments", "agent", "wire"},  # the top level: the door of the SDK
    "wire": set(),
    "core": set(),
    "ledger": {"core"},
    "storage": {
        *("ledger.ports", "core"),
        *("payments.ports", "payments.records", "payments.outcome", "payments.schedule"),
    },
    "authority": {"wire", "core", "ledger"},
    "server": {"wire", "core", "ledger", "storage", "authority", "payments", "x402"},
    "client": {"wire"},
    "client.embedded": {"wire", "authority", "ledger", "storage.sqlite"},
    # What every payment shares: the outcome machine, its records and their worker.
    "payments": {"wire", "client"},
    **{f"payments.{pure}": set() for pure in ("outcome", "records", "schedule", "ports")},
    "payments.store": {"storage.sqlite"},  # opens the tables in a ledger's file
    "ap2": {"wire", "client", "payments"},
    "x402": {"wire", "client", "payments"},
    "agent": {"client", "payments"},
    "agent.pricing": {"integrations.genai_prices"},  # the one bridge that knows no agent
    "integrations": {"client", "agent"},
    "testing": {
        *("wire", "core", "ledger", "storage", "authority", "server"),
        *("client", "payments", "ap2", "x402", "agent", "integrations"),
    },
    "cli": {
        *("wire", "core", "ledger", "storage", "authority", "server"),
        *("client", "payments", "ap2", "x402", "agent", "integrations", "testing"),
    },
}

# Floors that name their third-party packages; a floor that is not listed may use any.
THIRD_PARTY: dict[str, set[str]] = {
    **dict.fromkeys(GROUND, ONLY_STDLIB),
    "": ONLY_STDLIB,
    "wire": {"pydantic", "pydantic_core", "msgspec"},
    "core": ONLY_STDLIB,
    "ledger": ONLY_STDLIB,
    "storage": {"psycopg", "psycopg_pool"},
    "authority": {"pydantic", "pydantic_core", "msgspec"},
}

# Modules of the standard library (and of the ground floor) that a place must not touch, because
# what it needs of them is an argument there.
SUSPENDING = {"asyncio", "anyio", "threading", "time"}
IMPURE = SUSPENDING | {
    *("random", "os", "secrets", "uuid", "io", "pathlib", "tempfile", "socket", "http", "urllib"),
    *("subprocess", "multiprocessing", "concurrent", "selectors", "ssl", "logging", "importlib"),
    *("httpx", "httpx2", "sqlite3", "bursar.clock", "bursar.ids"),
}
BANNED: dict[str, set[str]] = {
    "core": IMPURE,
    "authority": {"http", "socket", "socketserver", "sqlite3"},
    **{f"client.{flow}": SUSPENDING for flow in ("opening", "settling", "action", "heartbeat")},
    **{f"client.{pure}": SUSPENDING for pure in ("calls", "cost", "outcome", "plans", "options")},
    **{f"client.{shared}": SUSPENDING - {"threading"} for shared in ("held", "settler")},
    **{f"payments.{pure}": IMPURE for pure in ("outcome", "records", "schedule")},
    **{f"agent.{pure}": IMPURE for pure in ("state", "step", "budget")},
}
IMPURE_CALLS = {"now", "utcnow", "today"}  # of datetime and date
IMPURE_BUILTINS = {"open", "print", "input", "__import__"}


def row(table: dict[str, set[str]], module: str) -> set[str] | None:
    """Return the most specific row for a module named without the leading `bursar.`."""
    while module not in table:
        if "." not in module:
            return None
        module = module.rpartition(".")[0]
    return table[module]


def name_of(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    place = SRC.joinpath(*dotted.split(".")[1:])
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def imports(tree: ast.Module, module: str, is_package: bool) -> list[tuple[int, str]]:
    """Return (line, absolute dotted name) of everything a module imports."""
    full = f"bursar.{module}" if module else "bursar"
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = full.split(".")
                kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([base] if base else [])])
            for alias in node.names:
                # `from package import module` depends on the module, not on the whole package.
                dotted = f"{base}.{alias.name}"
                inside = base.split(".")[0] == "bursar" and is_module(dotted)
                found.append((node.lineno, dotted if inside else base))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found += [
                (node.lineno, argument.value)
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            ]
    return found


def covers(allowed: set[str], target: str) -> bool:
    return any(target == entry or target.startswith(f"{entry}.") for entry in allowed)


def wrong_import(module: str, target: str) -> str | None:
    """Say what is wrong with one import, or None."""
    if covers(row(BANNED, module) or set(), target):
        return f"{target} is banned here; what it gives is an argument"
    top, _, rest = target.partition(".")
    if top != "bursar":
        packages = row(THIRD_PARTY, module)
        if top in sys.stdlib_module_names or packages is None or top in packages:
            return None
        return f"{target} is a third-party package that this floor does not use"
    allowed = row(MAY_IMPORT, module)
    if allowed is None:
        return "this package has no row in MAY_IMPORT"
    own = module.partition(".")[0]
    down = rest.partition(".")[0] in GROUND or (own and covers({own}, rest))
    if down or covers(allowed, rest) or (rest == "" and own in ("cli", "server", "testing")):
        return None
    return f"bursar.{rest} is not below it" if rest else "the top level is not below it"


def impure_uses(tree: ast.Module) -> list[tuple[int, str]]:
    """Return reads of the clock, IO built-ins and awaits: none of them may stand in the core."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith):
            found.append((node.lineno, "the core never awaits"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value).rpartition(".")[2]
            if node.func.attr in IMPURE_CALLS and owner in {"datetime", "date"}:
                found.append((node.lineno, f"{owner}.{node.func.attr}() reads the clock"))
        elif isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
            found.append((node.lineno, f"{node.id}() is IO"))
    return found


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each broken rule in a module named without the leading `bursar.`."""
    tree = ast.parse(source)
    found = [
        (line, wrong)
        for line, target in imports(tree, module, is_package)
        if (wrong := wrong_import(module, target)) is not None
    ]
    if module.partition(".")[0] == "core":
        found += impure_uses(tree)
    return [f"{module or 'bursar'}:{line}: {wrong}" for line, wrong in sorted(found)]


def test_every_import_goes_down() -> None:
    """No module of the package imports from a floor above it or from beside it."""
    paths = sorted(SRC.rglob("*.py"))
    assert paths, f"no module found under {SRC}"
    found = [
        line
        for path in paths
        for line in violations(
            path.read_text(encoding="utf-8"), name_of(path), path.name == "__init__.py"
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.verbs.reserve", "from ...storage import base"),
        ("core.state", "from bursar.ledger import ports"),
        ("core.state", "import bursar.wire.runtime"),
        ("core.state", "def late():\n    from ..server import app"),
        ("core.state", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sqlite3"),
        ("core.state", "from bursar.clock import SystemClock"),
        ("core.state", "from bursar import ids"),
        ("core.state", "import os.path"),
        ("core.state", "import time"),
        ("core.state", "from importlib import import_module"),
        ("core.state", "import datetime\nnow = datetime.datetime.now()"),
        ("core.state", "from datetime import date\nday = date.today()"),
        ("core.state", "async def load(): ..."),
        ("core.state", "open('ledger')"),
        ("core.state", "import pydantic"),
        ("money", "import pydantic"),
        ("money", "from .core import state"),
        ("wire.runtime", "from ..core import state"),
        ("wire.runtime", "import starlette"),
        ("ledger.batcher", "from bursar.storage.sqlite import store"),
        ("storage.sqlite.store", "from bursar.ledger import queries"),
        ("storage.sqlite.store", "from ...wire import codec"),
        ("authority.translate", "import starlette.requests"),
        ("authority.translate", "from bursar.server import settings"),
        ("server.app", "from bursar.cli import serve"),
        ("server.app", "from importlib import import_module\nimport_module('bursar.testing')"),
        ("client.sync", "from bursar.ledger import service"),
        ("client.embedded", "from bursar.storage.postgres import store"),
        ("client.opening", "import asyncio"),
        ("payments.outcome", "from bursar.client import sync"),
        ("payments.outcome", "import time"),
        ("testing.memory", "from bursar.cli import serve"),
        ("gateway.app", "from bursar.core import state"),
        ("", "import pydantic"),
        ("", "from bursar.server import app"),
    ],
)
def test_checker_catches(module: str, source: str) -> None:
    """Each kind of wrong import is reported; otherwise the test above proves nothing."""
    assert violations(source, module) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.verbs.reserve", "from ...vocabulary import Unit\nfrom ..state import Budget"),
        ("core.state", "import hashlib, datetime\nzone = datetime.timezone.utc"),
        ("money", "from bursar.vocabulary import Unit"),
        ("wire.runtime", "import pydantic, msgspec"),
        (
            "storage.sqlite.store",
            "import sqlite3\nfrom bursar.ledger.ports import Store",
        ),
        ("authority.translate", "from bursar.wire import codec\nfrom ..ledger import ports"),
        ("server.app", "import starlette\nfrom bursar.storage.sqlite import store"),
        ("client.embedded", "from bursar.storage.sqlite import store"),
        ("cli.serve", "from bursar.testing import memory"),
        ("", "from bursar.client import errors"),
    ],
)
def test_checker_accepts(module: str, source: str) -> None:
    """What the table allows is not reported."""
    assert violations(source, module) == []


def test_relative_imports_resolve_from_packages_and_modules() -> None:
    """One dot means the package itself in `__init__` and the parent package in a module."""
    tree = ast.parse("from .ports import Store\nfrom .. import money")
    assert imports(tree, "ledger", is_package=True)[0] == (1, "bursar.ledger.ports")
    assert imports(tree, "ledger.batcher", is_package=False) == [
        (1, "bursar.ledger.ports"),
        (2, "bursar.money"),
    ]


def modules_after(code: str) -> set[str]:
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(ran.stdout))


def optional_packages() -> set[str]:
    """Return the import names of everything that only an extra installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        "".join(c if c.isalnum() or c in "-_." else " " for c in requirement).split()[0]
        for extra in project["optional-dependencies"].values()
        for requirement in extra
    }
    known = {name.replace("_", "-").lower() for name in wanted}
    return {
        package
        for package, distributions in packages_distributions().items()
        if any(name.replace("_", "-").lower() in known for name in distributions)
    }


def test_import_is_light() -> None:
    """`import bursar` loads no optional dependency, no server code and no ledger."""
    optional = optional_packages()
    assert {"starlette", "uvicorn", "msgspec", "cyclopts"} <= optional
    # A base dependency may itself use one of them if it happens to be installed.
    not_ours = modules_after("import httpx2, pydantic")
    loaded = modules_after("import bursar")
    assert "bursar" in loaded
    assert {name for name in loaded - not_ours if name.partition(".")[0] in optional} == set()
    heavy = {
        f"bursar.{package}"
        for package in ("authority", "cli", "core", "ledger", "server", "storage", "testing")
    }
    assert {name for name in loaded if covers(heavy, name)} == set()
