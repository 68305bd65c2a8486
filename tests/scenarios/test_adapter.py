"""Every scenario that is published has a test of its name, and the adapter runs it."""

import json
import re
import subprocess
import sys
from pathlib import Path

from scenarios import test_scenarios

ADAPTER = Path(__file__).with_name("adapter.py")
PUBLISHED = {
    *(f"CR-CORE-00{number}" for number in range(1, 5)),
    *(f"CR-DURABLE-00{number}" for number in range(1, 8)),
    "CR-BOUNDARY-001",
}


def test_no_scenario_is_left_out() -> None:
    """The twelve of profile 0.3."""
    names = re.findall(r"^test_(cr_\w+)$", "\n".join(vars(test_scenarios)), re.MULTILINE)
    assert {name.upper().replace("_", "-") for name in names} == PUBLISHED


def play(scenario: str) -> tuple[int, dict[str, object]]:
    ran = subprocess.run(
        [sys.executable, str(ADAPTER)],
        input=json.dumps({"id": scenario, "level": "boundary"}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    answer: dict[str, object] = json.loads(ran.stdout)
    return ran.returncode, answer


def test_the_adapter_answers_one_object() -> None:
    """Whether it passed, and which tests say so."""
    code, answer = play("CR-BOUNDARY-001")
    assert (code, answer["scenario_id"], answer["passed"]) == (0, "CR-BOUNDARY-001", True)
    native = answer["native_tests"]
    assert isinstance(native, list)
    assert len(native) == 4
    assert all("test_cr_boundary_001" in name for name in native)


def test_the_adapter_does_not_pass_what_it_does_not_know() -> None:
    """No test is no proof."""
    code, answer = play("CR-CORE-999")
    assert (code, answer["passed"], answer["native_tests"]) == (1, False, [])
