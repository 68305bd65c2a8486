"""The migration page lists every difference from the official client, and a test shows each."""

import ast
from pathlib import Path

from client.differences import DIFFERENCES, PAGE, PART, written

HERE = Path(__file__).resolve().parent


def test_the_page_lists_every_difference() -> None:
    """Page and table agree; the page has the part that the table fills."""
    page = PAGE.read_text(encoding="utf-8")
    assert PART.search(page)
    assert page == written(page)


def test_every_difference_is_shown_by_a_test() -> None:
    """Each row names a test that exists, and no two rows are about the same."""
    for difference in DIFFERENCES:
        file, _, name = difference.test.partition("::")
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, kinds)}, difference.test
        assert "|" not in "".join((difference.about, difference.runcycles, difference.bursar))
    about = [difference.about for difference in DIFFERENCES]
    assert len(set(about)) == len(about)
