"""Every numbered edge case of the protocol (its section 13) is tested, and it is known where.

A test of this folder names the cases that it covers in its docstring ("Case 7: ..."). What cannot
be reached over HTTP yet is listed below, with the reason and the test that has it meanwhile.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = set(range(1, 81))
NAMED = re.compile(r'"""Cases? ((?:\d+(?:, | and )?)+): ')

# Case -> (why not here, where it is tested; None where there is nothing yet to test).
ELSEWHERE: dict[int, tuple[str, str | None]] = {
    15: ("a sweep cannot be asked for twice over HTTP", "tests/core/test_expire.py"),
    44: ("a key is forgotten after 24 hours", "tests/core/test_replay.py"),
    69: ("there are no webhooks yet", None),
    70: ("there are no webhooks yet", None),
    71: ("there are no webhooks yet", None),
    72: ("there are no webhooks yet", None),
    73: ("there are no webhooks yet", None),
    74: ("there are no webhooks yet", None),
}


def covered() -> set[int]:
    """Return the cases that docstrings of this folder name."""
    return {
        int(number)
        for path in HERE.glob("test_*.py")
        for named in NAMED.findall(path.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", named)
    }


def test_every_case_has_a_place() -> None:
    """Each of the eighty cases is covered here or listed above, and none is both."""
    here = covered()
    assert sorted(CASES - here - ELSEWHERE.keys()) == []
    assert sorted(here & ELSEWHERE.keys()) == []
    assert sorted(here - CASES) == []


@pytest.mark.parametrize("case", [case for case, (_, where) in ELSEWHERE.items() if where])
def test_what_is_elsewhere_is_there(case: int) -> None:
    """The file named for a case has that case."""
    _, where = ELSEWHERE[case]
    text = (HERE.parents[1] / str(where)).read_text(encoding="utf-8")
    assert re.search(rf"case {case}\b", text)
