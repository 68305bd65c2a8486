"""What the loop knows of a model: a usage that is not known stays not known."""

import pytest

from bursar.agent.ports import (
    NO_USAGE,
    UNKNOWN_USAGE,
    ModelError,
    ModelFailure,
    TokenUsage,
    total_usage,
)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], NO_USAGE),
        ([TokenUsage(1, 2), TokenUsage(3, 4, 1, 2)], TokenUsage(4, 6, 1, 2)),
        ([TokenUsage(1, 2), UNKNOWN_USAGE], UNKNOWN_USAGE),
        ([UNKNOWN_USAGE, TokenUsage(1, 2)], UNKNOWN_USAGE),
        ([TokenUsage(7, None), TokenUsage(3, 4)], TokenUsage(10, None)),
    ],
)
def test_sums(parts: list[TokenUsage], expected: TokenUsage) -> None:
    """One unknown count poisons the sum of that count, and no other."""
    assert total_usage(parts) == expected
    assert expected.known is (None not in (expected.input_tokens, expected.output_tokens))


@pytest.mark.parametrize("failure", ModelFailure)
def test_failures_are_retryable_unless_refused(failure: ModelFailure) -> None:
    """Only a refusal is final; and no failure is spelled like a turn's own `timeout`."""
    error = ModelError("no", failure, maybe_billed=False)
    assert error.retryable is (failure is not ModelFailure.PROVIDER_REFUSED)
    assert failure != "timeout"
