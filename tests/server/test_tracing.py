"""Which trace a request belongs to, as a pure function of its two headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.server.tracing import trace_id
from schemas import TRACE_ID

T1, T2, SPAN = (
    "0af7651916cd43dd8448eb211c80319c",
    "4bf92f3577b34da6a3ce929d0e0e4736",
    "b7ad6b7169203331",
)
ZERO = "0" * 32


@pytest.mark.parametrize("flags", ["00", "01", "ff", "a0"])
def test_traceparent_wins(flags: str) -> None:
    """Case 59: a valid traceparent is taken, whatever its flags and whatever else is sent."""
    for other in (None, "", T2, "nonsense"):
        assert trace_id(f"00-{T1}-{SPAN}-{flags}", other) == T1
    assert trace_id(f" 00-{T1}-{SPAN}-{flags} ", T2) == T1


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "00",
        T1,
        f"00-{ZERO}-{SPAN}-01",
        f"00-{T1}-{'0' * 16}-01",
        f"ff-{T1}-{SPAN}-01",
        f"01-{T1}-{SPAN}-01",
        f"cc-{T1}-{SPAN}-01-what-the-future-brings",
        f"00-{T1}-{SPAN}-01-",
        f"00-{T1}-{SPAN}-01-more",
        f"00-{T1}-{SPAN}",
        f"00-{T1}-{SPAN}-1",
        f"00-{T1}-{SPAN}-0g",
        f"00-{T1[:-1]}-{SPAN}-01",
        f"00-{T1}0-{SPAN}-01",
        f"00-{T1.upper()}-{SPAN}-01",
        f"00_{T1}_{SPAN}_01",
        f"00-{T1}-{SPAN}-01\n00-{T1}-{SPAN}-01",
        f"00-{T1}-{SPAN}-01,00-{T1}-{SPAN}-01",
        "00-" + "\uff11" * 32 + f"-{SPAN}-01",
    ],
)
def test_a_malformed_traceparent_is_ignored(traceparent: str | None) -> None:
    """Case 60: zero ids, another version and bad syntax fall through to the next rule."""
    assert trace_id(traceparent, T2) == T2
    assert trace_id(traceparent, T2.upper()) == T2
    made = trace_id(traceparent, None)
    assert TRACE_ID.fullmatch(made)
    assert made != T1


@pytest.mark.parametrize(
    "header", ["", ZERO, T2[:-1], T2 + "0", "z" * 32, f"{T2},{T2}", T2 + "\n1"]
)
def test_a_malformed_trace_id_is_ignored(header: str) -> None:
    """A fresh id is made, and another one each time."""
    first, second = trace_id(None, header), trace_id(None, header)
    assert TRACE_ID.fullmatch(first)
    assert first != second
    assert ZERO not in (first, second)


@given(st.none() | st.text(), st.none() | st.text())
def test_no_header_fails(traceparent: str | None, header: str | None) -> None:
    """Whatever is sent, the answer is a trace id."""
    assert TRACE_ID.fullmatch(trace_id(traceparent, header))
