"""Articles and requirements: the most that can be assigned, against trying everything."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.ap2.matching import most_assigned

ARTICLES = "abcd"


def brute(required: list[tuple[int, frozenset[str]]], available: dict[str, int]) -> int:
    """Return the most that any order of handing out pieces one by one assigns."""
    slots = [acceptable for quantity, acceptable in required for _ in range(quantity)]
    pieces = [article for article, quantity in available.items() for _ in range(quantity)]
    pieces += [""] * len(slots)  # a slot may stay empty
    best = 0
    for chosen in set(itertools.permutations(pieces, len(slots))):
        best = max(
            best, sum(piece in slot for piece, slot in zip(chosen, slots, strict=True) if piece)
        )
    return best


REQUIRED = st.lists(
    st.tuples(st.integers(1, 2), st.frozensets(st.sampled_from(ARTICLES), max_size=3)), max_size=3
).filter(lambda required: sum(quantity for quantity, _ in required) <= 4)
AVAILABLE = st.dictionaries(st.sampled_from(ARTICLES), st.integers(1, 2), max_size=3)


@settings(max_examples=150, deadline=None)
@given(REQUIRED, AVAILABLE)
def test_no_way_assigns_more(
    required: list[tuple[int, frozenset[str]]], available: dict[str, int]
) -> None:
    assert most_assigned(required, available) == brute(required, available)


def test_what_was_assigned_first_is_reassigned() -> None:
    """Handing the first article to the first requirement would leave the second with none."""
    assert most_assigned([(1, frozenset("ab")), (1, frozenset("a"))], {"a": 1, "b": 1}) == 2


def test_quantities_are_not_counted_piece_by_piece() -> None:
    """Large numbers and long chains of reassignments take no time to speak of."""
    most = 2**62
    assert most_assigned([(most, frozenset("ab"))], {"a": most - 1, "b": 7}) == most
    names = [f"article-{n}" for n in range(300)]
    required = [(1, frozenset(names[n : n + 2])) for n in range(299)] + [(1, frozenset(names[:1]))]
    assert most_assigned(required, dict.fromkeys(names, 1)) == 300
