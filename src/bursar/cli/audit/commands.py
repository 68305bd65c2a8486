"""`bursar audit`: its commands.

The rule that lives here: what the group is for is said once, where its commands are named.
"""

from __future__ import annotations

from cyclopts import App

from bursar.cli.audit.listing import list_
from bursar.cli.audit.verify import verify

ABOUT = """See who did what, and prove that the ledger is whole.

Every accepted change is one entry of a tenant's log, chained by hash to the one before it.
`list` shows these changes and what was refused; `verify` computes all of it again on this
machine.

Example: bursar audit verify backup.db
"""

app = App(name="audit", help=ABOUT)
app.command(list_, name="list")
app.command(verify)
