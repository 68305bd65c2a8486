"""What the packages of Ethereum must not do to a process."""

import ast
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).resolve().parents[2] / "src" / "bursar"
ONLY = {"eth_account", "eth_keys", "eth_utils", "eth_hash", "eth_abi", "web3", "x402"}


def run(code: str) -> str:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def test_import_leaves_the_recursion_limit_alone() -> None:
    limit = run("import sys, bursar.x402.ethereum; print(sys.getrecursionlimit())")
    assert int(limit) == int(run("import sys; print(sys.getrecursionlimit())"))


def test_deep_payload_is_refused_after_signing() -> None:
    """A stranger's header ends nobody's process, also where signatures were checked before."""
    said = run(
        "import base64\n"
        "from bursar.x402 import authorization, presented\n"
        "authorization.intent_nonce('x')\n"
        "header = base64.b64encode(b'[' * 12_000).decode()\n"
        "try:\n"
        "    presented.parse({'PAYMENT-SIGNATURE': header})\n"
        "except presented.MalformedPayment as refused:\n"
        "    print(refused)\n"
    )
    assert "not base64 of JSON" in said


def test_one_module_imports_them() -> None:
    found = []
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            found += [path.name for name in names if name.partition(".")[0] in ONLY]
    assert set(found) == {"ethereum.py"}
