"""`bursar audit`: its commands, each imported only when it is called.

The rule that lives here: what the group is for is said once, where its commands are named.
"""

from __future__ import annotations

from cyclopts import App

ABOUT = """See who did what, and prove that the ledger is whole.

Every accepted change is one entry of a tenant's log, chained by hash to the one before it.
`list` shows these changes and what was refused; `verify` computes all of it again on this
machine.

Example: bursar audit verify backup.db
"""

app = App(name="audit", help=ABOUT)
app.command("bursar.cli.audit.listing:list_", name="list")
app.command("bursar.cli.audit.verify:verify", name="verify")
