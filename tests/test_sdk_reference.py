"""The reference of the SDK says what its docstrings say.

After a change of one of them, `python tests/test_sdk_reference.py` writes the page again.
"""

import inspect
from pathlib import Path

import bursar
from sdk_pages import GROUPS, entry, page, prose, signature

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "sdk.md"
BEGIN = "<!-- from the docstrings -->\n"


def written() -> str:
    """Return the page with its generated part as it should be."""
    head, begin, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{begin}\n{page()}"


def test_page_says_what_the_docstrings_say() -> None:
    """The page is what is generated, to the letter."""
    found = PAGE.read_text(encoding="utf-8")
    assert BEGIN in found
    assert found == written(), "run `python tests/test_sdk_reference.py`"


def test_every_name_is_there_once() -> None:
    """What `bursar` exports is in the reference, and nothing of it twice."""
    names = [name for _, group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    exported = set(bursar.__all__) - {"__version__"}
    assert {name for name in names if "." not in name} == exported


def test_sections_become_lists() -> None:
    """Google's sections are read as people mean them."""
    docstring = """Do it.

    Args:
        one: the first,
            and more of it.
        two: the second.

    Returns:
        What: came of it.

    Raises:
        ValueError: it was not one.
    """
    assert "\n".join(prose(inspect.cleandoc(docstring))) == (
        "Do it.\n\n- `one`: the first,\n  and more of it.\n- `two`: the second.\n\n"
        "Returns:\n\nWhat: came of it.\n\nRaises:\n\n- `ValueError`: it was not one."
    )


def test_signatures_are_shown_as_they_are_called() -> None:
    """Stars, slashes and defaults stand where Python has them."""

    def call(first: int, /, second: str = "b", *, third: bool = True, **rest: float) -> None: ...

    assert signature("call", call) == (
        "call(first: int, /, second: str = 'b', *, third: bool = True, **rest: float) -> None"
    )


def test_twins_are_told_once() -> None:
    """Of an asynchronous twin, only what the other does not have is listed."""
    assert "aclose" in "\n".join(entry("AsyncCyclesClient"))
    assert "get_balances" not in "\n".join(entry("AsyncCyclesClient"))
    assert "get_balances" in "\n".join(entry("CyclesClient"))


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
