"""One published scenario for a conformance runner: JSON on stdin, one JSON object on stdout.

Reads `{"id": "CR-CORE-001", ...}` and plays it through both shells, as the tests of that name.
"""

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).with_name("test_scenarios.py")
WITHIN_S = 300


def main() -> int:
    """Play the scenario and print what came of it; return 1 if it failed."""
    scenario = json.load(sys.stdin)["id"]
    name = f"test_{scenario.lower().replace('-', '_')}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--no-header"]
    ran = subprocess.run(
        [*command, "-k", name, str(TESTS)],
        capture_output=True,
        text=True,
        cwd=TESTS.parents[2],
        timeout=WITHIN_S,
    )
    native = [line.split()[0] for line in ran.stdout.splitlines() if line.startswith("tests/")]
    passed = ran.returncode == 0 and bool(native)
    print(json.dumps({"scenario_id": scenario, "passed": passed, "native_tests": native}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
