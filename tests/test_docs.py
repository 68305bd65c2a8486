"""The documentation is complete, and what it tells people to run runs.

How a fenced block of README.md, CONTRIBUTING.md and docs/ is treated depends on its tag alone:

* `sh` runs under bash and `python` as a script. The blocks of one document run in order, in one
  temporary directory (with `examples` linked into it), and variables that an `sh` block sets are
  seen by all later blocks.
* If a block names the server (`$BURSAR_URL`, `$CYCLES_BASE_URL` or the default address), the
  document gets a server of its own. Those variables and `$BURSAR_ADMIN_KEY` are set, and the
  default address in the text is replaced by the address of that server.
* `text` and `console` are for people only: output, and commands that must not run here. But a
  `text` block right below a `python` block is what that prints, to the letter.
* Data (`json`, `toml`, ...) is shown. Any other tag, or none, is a mistake.
"""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest

from bursar.testing.chain import ToolsMissing, install

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = [
    *(ROOT / page for page in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]

RUN = {"sh", "python"}
SHOWN = {"text", "console", "json", "toml", "yaml", "csv", "http", "sql", "mermaid"}
DEFAULT_ADDRESS = re.compile(r"(?:127\.0\.0\.1|localhost):7878")
NEEDS_SERVER = re.compile(rf"BURSAR_URL|CYCLES_BASE_URL|{DEFAULT_ADDRESS.pattern}")
CURL = re.compile(r"\bcurl\b")
BLOCK_WITHIN_S = 180

FENCE = re.compile(r"^ *(?P<ticks>```+|~~~+)(?P<info>[^`]*)$")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
METRIC_KINDS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}


class Server(Protocol):
    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def admin_key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Block:
    line: int
    tag: str
    text: str

    @property
    def end(self) -> int:
        """The line of the closing fence."""
        return self.line + self.text.count("\n") + 1


def blocks(markdown: str) -> list[Block]:
    """Return the fenced blocks of a document; an unclosed fence is an error."""
    found: list[Block] = []
    opened: tuple[int, re.Match[str]] | None = None
    body: list[str] = []
    for number, line in enumerate(markdown.splitlines(), 1):
        fence = FENCE.match(line)
        if opened is None:
            if fence:
                opened, body = (number, fence), []
        elif fence and fence["ticks"].startswith(opened[1]["ticks"]) and not fence["info"].strip():
            tag = (opened[1]["info"].split() or [""])[0]
            found.append(Block(opened[0], tag, textwrap.dedent("\n".join(body)) + "\n"))
            opened = None
        else:
            body.append(line)
    assert opened is None, f"the fence opened in line {opened[0] if opened else 0} is never closed"
    return found


def outputs(markdown: str) -> dict[int, str]:
    """Return what Python blocks are said to print, by the line on which each of them begins."""
    lines, found = markdown.splitlines(), blocks(markdown)
    return {
        block.line: below.text
        for block, below in pairwise(found)
        if (block.tag, below.tag) == ("python", "text")
        and not any(line.strip() for line in lines[block.end : below.line - 1])
    }


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))


def without_make(script: str) -> str:
    """Take `make` lines out of a script, after checking that their targets exist.

    They are not run: `make test` would run this very test again, without end, and each of
    them is run by continuous integration anyway.
    """
    kept: list[str] = []
    for line in script.splitlines():
        if re.match(r"\s*make\b", line):
            words = shlex.split(line, comments=True)[1:]
            targets = {word for word in words if "=" not in word and not word.startswith("-")}
            assert targets <= make_targets(), f"no such make target: {targets - make_targets()}"
        else:
            kept.append(line)
    return "\n".join(kept) + "\n"


class Reader:
    """Somebody who follows one document from top to bottom in an empty directory."""

    def __init__(self, directory: Path, server: Server | None) -> None:
        self.directory = directory
        self.server = server
        self.variables = directory / ".variables"
        self.variables.touch()
        self.started: list[subprocess.Popen[bytes]] = []
        if (ROOT / "examples").is_dir():
            (directory / "examples").symlink_to(ROOT / "examples")

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.directory), "PYTHONUNBUFFERED": "1"}
        if self.server is not None:
            own["BURSAR_URL"] = own["CYCLES_BASE_URL"] = self.server.url
            own["BURSAR_ADMIN_KEY"] = self.server.admin_key
        return os.environ | own

    def script_of(self, block: Block) -> str:
        text = block.text
        if self.server is not None:
            text = DEFAULT_ADDRESS.sub(f"127.0.0.1:{self.server.port}", text)
        recall = f"set -a -eo pipefail\n. {shlex.quote(str(self.variables))}\n"
        if block.tag == "python":
            program = self.directory / f"line{block.line}.py"
            program.write_text(text, encoding="utf-8")
            return f"{recall}exec {shlex.quote(sys.executable)} {program.name}\n"
        keep = f"export -p > {shlex.quote(str(self.variables))}\n"
        return recall + without_make(text) + keep

    def follow(self, block: Block) -> tuple[int, str]:
        """Run one block; return its exit status and everything it printed."""
        # A file and not a pipe: a server left in the background would hold a pipe open.
        printed = self.directory / f"line{block.line}.out"
        with printed.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", self.script_of(block)],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        try:
            status = process.wait(BLOCK_WITHIN_S)
        except subprocess.TimeoutExpired:
            status = -1
        return status, printed.read_text(encoding="utf-8", errors="replace")

    def leave(self) -> None:
        """Stop whatever the blocks left running; each block leads a process group of its own."""
        for process in self.started:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_document_runs(
    path: Path, tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], Server]
) -> None:
    """Every block of the document that is meant to run runs, in order, and succeeds."""
    markdown = path.read_text(encoding="utf-8")
    found, expected = blocks(markdown), outputs(markdown)
    wrong = [f"line {b.line}: {b.tag!r}" for b in found if b.tag not in RUN | SHOWN]
    assert wrong == [], f"tag each block with one of {sorted(RUN | SHOWN)}"
    runnable = [block for block in found if block.tag in RUN]
    if any(CURL.search(block.text) for block in runnable) and shutil.which("curl") is None:
        pytest.skip("this page talks to the server with curl, which this machine does not have")
    if any("LocalChain()" in block.text for block in runnable):
        try:
            install()
        except ToolsMissing as missing:
            pytest.skip(f"this page starts a local chain: {missing}")
    needed = any(NEEDS_SERVER.search(block.text) for block in runnable)
    server = serve(tmp_path_factory.mktemp("server")) if needed else None
    reader = Reader(tmp_path_factory.mktemp("reader"), server)
    try:
        for block in runnable:
            status, printed = reader.follow(block)
            assert status == 0, (
                f"{shown(path)}:{block.line}: exit status {status}\n{block.text}\n{printed}"
            )
            assert expected.get(block.line, printed) == printed, f"{shown(path)}:{block.line}"
    finally:
        reader.leave()


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file of this repository names one that exists."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = [match["target"].partition("#")[0] for match in LINK.finditer(prose)]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_readme_shows_something_that_runs() -> None:
    """The README holds at least one Python example and one command that are run."""
    tags = {block.tag for block in blocks((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert tags >= RUN


def reference(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def undocumented(names: Iterable[str], text: str) -> list[str]:
    """Return the names that do not stand in backquotes somewhere in the text."""
    return [name for name in names if not re.search(rf"`{re.escape(name)}[`=]", text)]


def test_settings_are_documented() -> None:
    """Every setting and its variable is in the reference, and the reference names no other."""
    from bursar.server.settings import SETTINGS

    text = reference("settings.md")
    assert len(SETTINGS) > 0
    assert undocumented((setting.name for setting in SETTINGS), text) == []
    assert undocumented((setting.env for setting in SETTINGS), text) == []
    assert set(re.findall(r"\bBURSAR_[A-Z_]+\b", text)) == {setting.env for setting in SETTINGS}


def test_error_codes_are_documented() -> None:
    """Every error code that a caller can receive is in the reference."""
    from bursar.vocabulary import ErrorCode

    assert undocumented((code.value for code in ErrorCode), reference("errors.md")) == []


def commands(app: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Yield (`bursar keys create`, its command) for every command of a cyclopts app."""
    for name in app:
        if name.startswith("-"):
            continue
        below = f"{words} {name}"
        if list(commands(app[name], below)):
            yield from commands(app[name], below)
        else:
            yield below, app[name]


def section(text: str, command: str) -> str | None:
    """Return the part of the reference under the heading that names the command."""
    heading = re.search(rf"^(#+) .*`{re.escape(command)}(?:`| [^`]*`).*$", text, re.MULTILINE)
    if heading is None:
        return None
    end = re.compile(rf"^#{{1,{len(heading[1])}}} ", re.MULTILINE).search(text, heading.end())
    return text[heading.start() : end.start() if end else len(text)]


def undocumented_commands(app: Any, text: str) -> list[str]:
    """Return every command without a section, and every option that its section leaves out."""
    wrong: list[str] = []
    # What every command with a server has is told once, under a heading of its own.
    shared = section(text, "bursar COMMAND") or ""
    everywhere = set(re.findall(r"^\| `--([\w-]+)`", shared, re.MULTILINE))
    for command, entry in commands(app, "bursar"):
        about = section(text, command)
        if about is None:
            wrong.append(command)
            continue
        for argument in entry.assemble_argument_collection():
            if argument.name in {f"--{name}" for name in everywhere}:
                continue
            names = [name.lstrip("-") for name in argument.names]
            if argument.show and not any(
                re.search(rf"(?<![\w-])(--{re.escape(name)}|{re.escape(name.upper())})\b", about)
                for name in names
            ):
                wrong.append(f"{command} --{names[0]}")
    return wrong


def test_commands_are_documented() -> None:
    """Every command has a section in the reference that names each of its options."""
    from bursar.cli.__main__ import app

    assert list(commands(app, "bursar")), "no command found"
    assert undocumented_commands(app, reference("cli.md")) == []


def metrics(source: str) -> list[str]:
    """Return the names of the metrics a module defines; a computed name is an error."""
    tree = ast.parse(source)
    kinds = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client")
        for alias in node.names
        if alias.name in METRIC_KINDS or alias.name.endswith("MetricFamily")
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        called = ast.unparse(node.func)
        if called in kinds or re.fullmatch(r"prometheus_client\.[\w.]+", called):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append(name.value)
            elif called in kinds or called.rpartition(".")[2] in METRIC_KINDS:
                raise AssertionError(f"line {node.lineno}: write the metric's name as a literal")
    return found


def test_metrics_are_documented() -> None:
    """Every metric the package defines is in the reference."""
    names = [
        name
        for path in sorted((ROOT / "src").rglob("*.py"))
        for name in metrics(path.read_text(encoding="utf-8"))
    ]
    assert undocumented(names, reference("metrics.md") if names else "") == []


def test_blocks_are_found() -> None:
    """Fences are read as people see them: tagged, nested, indented in a list."""
    markdown = "```sh\na\n```\n- item\n  ```python x\n  b\n  ```\n````text\n```\nc\n````\n"
    assert blocks(markdown) == [
        Block(1, "sh", "a\n"),
        Block(5, "python", "b\n"),
        Block(8, "text", "```\nc\n"),
    ]
    with pytest.raises(AssertionError, match="line 2 is never closed"):
        blocks("x\n```sh\n")


def test_outputs_are_found() -> None:
    """Only what stands right below a program is its output; prose between them ends that."""
    program, output = "```python\nprint(1)\n```\n", "```text\n1\n```\n"
    assert outputs(f"{program}\n{output}\nprose\n{output}") == {1: "1\n"}
    assert outputs(f"{program}It prints:\n\n{output}") == {}
    assert outputs(f"```sh\nls\n```\n{output}{program}") == {}


def test_reader_keeps_variables_and_reports_failure(tmp_path: Path) -> None:
    """A later block sees what an earlier one set, and a failing line fails its block."""
    reader = Reader(tmp_path, None)
    try:
        assert reader.follow(Block(1, "sh", "GREETING='a b'\nmake test\nsleep 60 &\n")) == (0, "")
        program = "import os\nprint(os.environ['GREETING'])\n"
        assert reader.follow(Block(2, "python", program)) == (0, "a b\n")
        assert reader.follow(Block(3, "sh", "false | cat\necho after\n"))[0] != 0
        assert reader.follow(Block(4, "python", "raise SystemExit(3)\n"))[0] == 3
        with pytest.raises(AssertionError, match="no such make target"):
            reader.follow(Block(5, "sh", "make coffee\n"))
    finally:
        reader.leave()


def test_gaps_in_the_reference_are_found() -> None:
    """A command, an option, a name or a metric that is not documented is reported."""
    import cyclopts

    app = cyclopts.App(name="bursar")
    keys = cyclopts.App(name="keys")
    app.command(keys)

    @app.command
    def serve(*, port: int = 7878, store: str = "") -> None: ...

    @keys.command
    def create(tenant: str) -> None: ...

    assert undocumented_commands(app, "") == ["bursar keys create", "bursar serve"]
    text = "## `bursar serve`\n`--port`\n## `bursar keys create TENANT`\n`--store`\n"
    assert undocumented_commands(app, text) == ["bursar serve --store"]
    assert undocumented(["a_b", "c"], "`a_b` and `a_b_c`") == ["c"]
    source = "from prometheus_client import Counter\nc = Counter('bursar_x', 'X')\n"
    assert metrics(source) == ["bursar_x"]
    assert metrics("from collections import Counter\nCounter('abc')\n") == []
