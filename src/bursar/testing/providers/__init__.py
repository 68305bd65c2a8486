"""A model provider that says what a script says, for programs that call a real one.

The rule that lives here: the program under test is not changed. It uses the provider's own
package, over HTTP, and only the address is another; what it is told and what it is billed
for is decided by the test.
"""

from bursar.testing.providers.script import Reply, ToolUse
from bursar.testing.providers.server import ScriptedProvider

__all__ = ["Reply", "ScriptedProvider", "ToolUse"]
