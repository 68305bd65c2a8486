"""A real chain on this machine, with a dollar worth nothing: what payments are tested on.

The rule that lives here: nothing of it is simulated. The chain is a real EVM (anvil), the token
is our own source, compiled here, and a transaction that moves its money is mined. Only the
accounts are everybody's: their keys are published with anvil, so the chain listens on loopback.
"""

from bursar.testing.chain.dollar import Dollar
from bursar.testing.chain.node import LocalChain
from bursar.testing.chain.tools import ToolsMissing, install

__all__ = ["Dollar", "LocalChain", "ToolsMissing", "install"]
