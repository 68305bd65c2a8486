"""`bursar payments`: its commands.

The rule that lives here: what the group is for is said once, where its commands are named.
"""

from __future__ import annotations

from cyclopts import App

from bursar.cli.payments.acting import mark_refunded, recheck, write_off
from bursar.cli.payments.listing import export, list_, show
from bursar.cli.payments.outbox import app as outbox

ABOUT = """See what became of payments, and deal with those that went wrong.

They lie in the ledger's own file, so the commands need no server and no key, and may run beside
one. A payment whose outcome is unknown stays so until the chain proves it; nothing here decides
it by hand.

Exit codes besides those of every command: 3 the file cannot be used, 9 there is no such payment,
10 the payment's state does not allow it.

Example: bursar payments list --disposition ORPHANED
"""

app = App(name="payments", help=ABOUT)
app.command(list_, name="list")
app.command(show)
app.command(recheck)
app.command(mark_refunded, name="mark-refunded")
app.command(write_off, name="write-off")
app.command(export)
app.command(outbox)
