"""The examples are short, and they run as a reader would run them."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bursar.testing.chain import ToolsMissing, install
from conftest import Served, serving

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
WITH_MODELS = Path(__file__).with_name("test_examples_sdk.py").read_text(encoding="utf-8")
LINES_MAX = 80
RUN_WITHIN_S = 60
NEEDS_NODE = {"11_accept_x402.py"}

# What each example must have said; it proves that it did its work, not only that it ended.
SAID = {
    "01_reserve_commit.py": r"It cost \$0\.012; \$0\.018 of the hold went back\.",
    "02_hard_stop.py": (
        r"6 steps of 150 tokens, then BUDGET_EXCEEDED: .* 100 TOKENS remaining, 150 requested\n"
        r"suggested: Lower the estimate to at most 100, or credit 50 TOKENS to tenant:acme/a.*\n"
        r"spent 900 of 1000"
    ),
    "03_stream_of_agents.py": (
        r"50 agents made 100 steps of 100 tokens\nspent 10000 of 10000, 0 held"
    ),
    "04_embedded_ledger.py": (
        r"Chapter 1\nChapter 2\nChapter 3\nstopped: Lower the estimate to at most 25000000, "
        r"or credit 5000000 USD_MICROCENTS to tenant:default\.\nspent \$0\.75 of \$1\.00"
    ),
    "10_pay_with_ap2.py": (
        r"unknown: no answer; charges 1, spent \$0, held \$20\n"
        r"denied: PRESENTED_ELSEWHERE; charges 1, spent \$0, held \$20\n"
        r"paid: ch_1; charges 1, spent \$20, held \$0\n"
        r"denied: REPLAYED_SETTLED; charges 1, spent \$20, held \$0"
    ),
    "11_accept_x402.py": (
        r"without a payment: 402\npaid, answer lost: 200\nthe same again: 200\n"
        r"the shop has 1000000 settled 1"
    ),
    "12_sub_agents.py": (
        r"research: Ledgers are books of debts\. The oldest is of clay\.\n"
        r"slow: SubAgentStopped: slow ended as timeout: its time was over .*\n"
        r"completed: Clay came first\.\n"
        r"charged \d+ microcents in [67] actions, at most: [01]\n"
        r"the ledger says the same: True"
    ),
}


def post(served: Served, path: str, **body: object) -> Any:
    request = urllib.request.Request(
        served.url + path, json.dumps(body).encode(), {"X-Admin-API-Key": served.admin_key}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables that the examples ask for: a server, and a tenant with a dollar budget."""
    with serving(tmp_path_factory.mktemp("examples")) as served:
        post(served, "/v1/admin/tenants", tenant_id="acme", name="Acme")
        post(
            served,
            "/v1/admin/budgets",
            tenant_id="acme",
            scope="tenant:acme",
            unit="USD_MICROCENTS",
            allocated={"unit": "USD_MICROCENTS", "amount": 10**9},
        )
        key = post(served, "/v1/admin/api-keys", tenant_id="acme", name="examples")
        yield os.environ | {"CYCLES_BASE_URL": served.url, "CYCLES_API_KEY": key["key_secret"]}


def run(example: str, environment: Mapping[str, str], directory: Path) -> tuple[int, str]:
    """Run an example in an empty directory; return its exit status and what it printed."""
    process = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_WITHIN_S,
    )
    return process.returncode, process.stdout + process.stderr


@pytest.mark.parametrize("example", SAID)
def test_example_runs(example: str, environment: Mapping[str, str], tmp_path: Path) -> None:
    """An example ends well and says what it is there to show."""
    if example in NEEDS_NODE:
        try:
            install()
        except ToolsMissing as missing:
            pytest.skip(f"it starts a local chain: {missing}")
    status, printed = run(example, environment, tmp_path)
    assert (status, bool(re.search(SAID[example], printed))) == (0, True), printed


def test_examples_can_run_again(environment: Mapping[str, str], tmp_path: Path) -> None:
    """A second run meets what the first one left behind and still works."""
    for _ in range(2):
        assert run("02_hard_stop.py", environment, tmp_path)[0] == 0
        status, printed = run("04_embedded_ledger.py", environment, tmp_path)
        assert status == 0, printed
    assert printed.startswith("stopped: ")
    assert printed.endswith("spent $0.75 of $1.00\n")


def test_denied_example_says_why(environment: Mapping[str, str], tmp_path: Path) -> None:
    """An example without a budget of its own ends with the server's reason, not a traceback."""
    nobody = dict(environment) | {"CYCLES_TENANT": "somebody-else"}
    status, printed = run("01_reserve_commit.py", nobody, tmp_path)
    assert (status, printed.count("\n")) == (1, 1), printed
    assert "subject.tenant is 'somebody-else' but this API key belongs to 'acme'" in printed


def test_examples_are_short() -> None:
    """An example fits on a screen, and every example is run here or in `test_examples_sdk`."""
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {name for name in lines if name not in SAID and f'"{name}"' not in WITH_MODELS} == set()
    assert SAID.keys() <= lines.keys()
    assert {name: count for name, count in lines.items() if count >= LINES_MAX} == {}
