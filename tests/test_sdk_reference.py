"""The reference of the SDK says what its docstrings say.

After a change of one of them, `python tests/test_sdk_reference.py` writes the page again.
"""

import importlib
import inspect
from pathlib import Path

import pytest

from sdk_pages import PAGES, entry, page, prose, signature

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference"
BEGIN = "<!-- from the docstrings -->\n"
DOORS = ("bursar", *(f"bursar.{one}" for one in ("agent", "ap2", "payments", "testing", "x402")))


def written(name: str) -> str:
    """Return a page with its generated part as it should be."""
    head, begin, _ = (REFERENCE / name).read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{begin}\n{page(PAGES[name])}"


@pytest.mark.parametrize("name", PAGES)
def test_page_says_what_the_docstrings_say(name: str) -> None:
    """The page is what is generated, to the letter."""
    found = (REFERENCE / name).read_text(encoding="utf-8")
    assert BEGIN in found
    assert found == written(name), "run `python tests/test_sdk_reference.py`"


def test_every_name_is_there_once() -> None:
    """What a package exports is in the reference, and nothing of it twice."""
    listed = [name for one in PAGES.values() for _, group in one.values() for name in group]
    assert len(listed) == len(set(listed))
    exported = {
        name if door == "bursar" else f"{door}.{name}"
        for door in DOORS
        for name in importlib.import_module(door).__all__
        if name != "__version__"
    }
    assert exported <= set(listed)
    assert {name for name in listed if "." not in name} <= exported


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
    for one in PAGES:
        (REFERENCE / one).write_text(written(one), encoding="utf-8")
