"""The page about AP2 lists every difference from the official guard, and a test shows each."""

import ast
from pathlib import Path

from ap2.cases import CASES
from ap2.differences import DIFFERENCES, PAGE, PART, TABLE, written

HERE = Path(__file__).resolve().parent


def test_the_page_lists_every_difference() -> None:
    """Page and table agree; the page has the part that the table fills."""
    page = PAGE.read_text(encoding="utf-8")
    assert PART.search(page)
    assert page == written(page), "run `python tests/ap2/differences.py`"


def test_every_difference_is_shown_by_a_test() -> None:
    """Each row names a test that exists, and no two rows are about the same."""
    for difference in DIFFERENCES:
        file, _, name = difference.test.partition("::")
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, kinds)}, difference.test
        assert "|" not in "".join((difference.about, difference.official, difference.bursar))
    about = [difference.about for difference in DIFFERENCES]
    assert len(set(about)) == len(about)


def test_rows_and_cases_name_each_other() -> None:
    """A row that the decision table shows is named by a case, and cases name rows only."""
    named = {case.differs for case in CASES if case.differs is not None}
    rows = {difference.about for difference in DIFFERENCES}
    assert named <= rows
    assert {difference.about for difference in DIFFERENCES if difference.test == TABLE} <= named
