"""A real chain for each file of tests, or a plain reason why there is none."""

from collections.abc import Iterator

import pytest

from bursar.testing.chain import Dollar, LocalChain, ToolsMissing, install
from payments.paying import Payer


@pytest.fixture(scope="module")
def chain() -> Iterator[LocalChain]:
    """A local EVM chain, or a skip that says what is missing: Node.js, or npm's answer."""
    try:
        install()
    except ToolsMissing as missing:
        pytest.skip(str(missing))
    with LocalChain() as running:
        yield running


@pytest.fixture(scope="module")
def dollar(chain: LocalChain) -> Dollar:
    """The test dollar, final."""
    deployed = Dollar(chain)
    chain.finalize()
    return deployed


@pytest.fixture
def payer(dollar: Dollar) -> Payer:
    """Somebody new with a thousand dollars."""
    return Payer.rich(dollar)
