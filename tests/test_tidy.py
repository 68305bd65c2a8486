"""House rules that no linter knows, kept by a ratchet.

A size above the limit needs an entry with its reason below. An entry names the exact size, so it
can only shrink, and it must go when it is no longer needed.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "bursar"

FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400

# "module.py" or "module.py:function" -> (lines, why it may be that long)
LONGER: dict[str, tuple[int, str]] = {}

TEXT = {".py", ".md", ".toml", ".sql", ".sh", ".yml", ".yaml", ".html", ".css", ".js", ".txt"}
WRITTEN_IN = ("src", "tests", "docs", "examples", "bench", ".ci")

# Spelled in pieces, so that this file does not report itself.
LEFT_TO_DO = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:" + "|".join(("home", "Users", "root", "work")) + ")/")
SILENCED = re.compile(
    r"#\s*(?P<what>noqa|type:\s*ignore|pyright:\s*ignore|pragma:\s*no\s?cover)"
    r"(?P<codes>\[[\w\-, ]+\]|:\s*[A-Z]+\d+(?:\s*,\s*[A-Z]+\d+)*)?(?P<rest>.*)",
    re.IGNORECASE,
)


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    loose = [path for path in ROOT.iterdir() if path.is_file()]
    inside = [path for folder in WRITTEN_IN for path in (ROOT / folder).rglob("*")]
    named = {"Makefile", "run"}
    return sorted(
        path
        for path in loose + inside
        if path.is_file() and (path.suffix in TEXT or path.name in named)
    )


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def sizes(source: str, module: str) -> dict[str, int]:
    """Return the lines of a module and of each of its functions, keyed as in `LONGER`."""
    found = {module: len(source.splitlines())}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef) and child.end_lineno is not None:
                    key = f"{module}:{name}"
                    lines = child.end_lineno - child.lineno + 1
                    found[key] = max(lines, found.get(key, 0))  # overloads share a name
                visit(child, f"{name}.")
            else:
                visit(child, prefix)

    visit(ast.parse(source), "")
    return found


def too_long(found: dict[str, int], longer: dict[str, tuple[int, str]]) -> list[str]:
    """Return what breaks the ratchet: unlisted and too long, grown, shrunk, or gone."""
    wrong: list[str] = []
    for key, lines in found.items():
        limit = FUNCTION_LINES_MAX if ":" in key else MODULE_LINES_MAX
        listed = longer.get(key, (0, ""))[0]
        if lines > limit and not listed:
            wrong.append(f"{key} has {lines} lines, more than {limit}: split it")
        elif listed and lines > listed:
            wrong.append(f"{key} grew from {listed} to {lines} lines: it may only shrink")
        elif listed and lines <= limit:
            wrong.append(f"{key} has only {lines} lines now: remove it from LONGER")
        elif listed and lines < listed:
            wrong.append(f"{key} shrank: put {lines} for {listed} in LONGER")
    wrong += [f"{key} is gone: remove it from LONGER" for key in longer if key not in found]
    wrong += [f"{key} needs a reason" for key, (_, why) in longer.items() if len(why) < 15]
    return wrong


def bad_statements(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) for statements that have no place in the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "`assert` is stripped by -O: use require()"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare `except` swallows cancellation: name the exception"


def unexplained(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, comment) for every silenced check without a code or a reason."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        for part in re.split(r"(?=#)", token.string):
            silenced = SILENCED.match(part)
            if silenced is None:
                continue
            needs_code = "pragma" not in silenced["what"]
            # mypy and pyright accept nothing but another comment after their marker, so the
            # reason of one may stand behind the next `#`.
            reason = silenced["rest"] + token.string.partition(part)[2]
            if (needs_code and not silenced["codes"]) or len(re.findall(r"[a-z]{2,}", reason)) < 2:
                yield token.start[0], token.string


def test_sizes() -> None:
    """No function is longer than a screen and no module longer than its limit."""
    paths = python_files("src")
    assert paths, f"no module found under {SRC}"
    found: dict[str, int] = {}
    for path in paths:
        key = path.relative_to(SRC).as_posix()
        found |= sizes(path.read_text(encoding="utf-8"), key)
    assert too_long(found, LONGER) == []


def test_ratchet_catches() -> None:
    """The ratchet refuses growth, stale entries and entries without a reason."""
    reason = "a guard ladder: cutting it hides its order"
    assert too_long({"a.py:f": 60, "a.py": 400}, {}) == []
    assert too_long({"a.py:f": 61}, {}) == ["a.py:f has 61 lines, more than 60: split it"]
    assert too_long({"a.py": 401}, {}) == ["a.py has 401 lines, more than 400: split it"]
    assert too_long({"a.py:f": 70}, {"a.py:f": (70, reason)}) == []
    assert too_long({"a.py:f": 71}, {"a.py:f": (70, reason)}) == [
        "a.py:f grew from 70 to 71 lines: it may only shrink"
    ]
    assert too_long({"a.py:f": 69}, {"a.py:f": (70, reason)}) == [
        "a.py:f shrank: put 69 for 70 in LONGER"
    ]
    assert too_long({"a.py:f": 60}, {"a.py:f": (70, reason)}) == [
        "a.py:f has only 60 lines now: remove it from LONGER"
    ]
    assert too_long({}, {"a.py:f": (70, reason)}) == ["a.py:f is gone: remove it from LONGER"]
    assert too_long({"a.py:f": 70}, {"a.py:f": (70, "")}) == ["a.py:f needs a reason"]
    body = "\n".join(["class C:", "    async def f(self):"] + ["        pass"] * 60)
    assert sizes(body, "a.py") == {"a.py": 62, "a.py:C.f": 61}


def test_no_statement_that_hides_a_fault() -> None:
    """The package has no `assert` and no bare `except`."""
    assert [
        f"{shown(path)}:{line}: {wrong}"
        for path in python_files("src")
        for line, wrong in bad_statements(ast.parse(path.read_text(encoding="utf-8")))
    ] == []
    both = "try:\n    assert x\nexcept:\n    pass"
    assert sorted(line for line, _ in bad_statements(ast.parse(both))) == [2, 3]


def test_every_module_has_a_docstring() -> None:
    """Each module says which rule lives in it; an empty `__init__` has nothing to say."""
    assert [
        shown(path)
        for path in python_files("src", "tests", "examples", "bench")
        if (source := path.read_text(encoding="utf-8")).strip()
        and not ast.get_docstring(ast.parse(source))
    ] == []


@pytest.mark.parametrize(
    ("pattern", "why"),
    [(LEFT_TO_DO, "finish it or drop it"), (MACHINE_PATH, "a path of one machine")],
    ids=["left-to-do", "machine-path"],
)
def test_no_leftovers(pattern: re.Pattern[str], why: str) -> None:
    """No file that people write holds a marker of unfinished work or a path of one machine."""
    paths = text_files()
    assert ROOT / "Makefile" in paths
    assert ROOT / "pyproject.toml" in paths
    assert [
        f"{shown(path)}:{number}: {why}: {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ] == []


def test_leftover_patterns_catch() -> None:
    """The two patterns find what they are for and leave URLs and routes alone."""
    assert LEFT_TO_DO.search("# " + "TO" + "DO: later")
    assert MACHINE_PATH.search("open('/" + "home/me/ledger.db')")
    assert MACHINE_PATH.search("cd /" + "root/x")
    for fine in ("https://example.org/home/x", "./work/x", "docs/work/x", "GET /v1/homes/x"):
        assert MACHINE_PATH.search(fine) is None


def test_silenced_checks_are_explained() -> None:
    """Every silenced check names what it silences and says why."""
    assert [
        f"{shown(path)}:{line}: {comment}"
        for path in python_files("src", "tests", "examples", "bench")
        for line, comment in unexplained(path.read_text(encoding="utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("comment", "fine"),
    [
        ("# type: " + "ignore", False),
        ("# type: " + "ignore[arg-type]", False),
        ("# type: " + "ignore  # the stub lacks this overload", False),
        ("# type: " + "ignore[arg-type]  # the stub lacks this overload", True),
        ("# no" + "qa", False),
        ("# no" + "qa: BLE001", False),
        ("# no" + "qa: BLE001 - the supervisor reports whatever ended the task", True),
        ("# no" + "qa: BLE001, PERF203  # the supervisor reports it", True),
        ("# pyright: " + "ignore[reportPrivateUsage]", False),
        ("# pyright: " + "ignore[reportPrivateUsage]  # the peer has no public name for it", True),
        ("# pragma: " + "no cover", False),
        ("# pragma: " + "no cover - only another platform runs it", True),
        ("# an ordinary comment", True),
    ],
)
def test_unexplained_catches(comment: str, fine: bool) -> None:
    """A silenced check without a code or without words after it is reported."""
    assert (list(unexplained(f"x = 1  {comment}\n")) == []) is fine


def test_lock_pins_what_the_project_asks_for() -> None:
    """The lock is plain names and hashes, and it is newer than the last change of the project."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock, "the lock names a host: it must install from any index"
    assert "--index-url" not in lock
    pinned = dict(re.findall(r"^([\w.\-]+)(?:\[[\w,.\-]+\])?==([^\s;\\]+)", lock, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [
        Requirement(text) for text in [*project["dependencies"], *extras["server"], *extras["dev"]]
    ]
    assert [
        str(requirement)
        for requirement in asked
        if (name := canonicalize_name(requirement.name)) not in pinned
        or pinned[name] not in requirement.specifier
    ] == [], "run `make lock`"
