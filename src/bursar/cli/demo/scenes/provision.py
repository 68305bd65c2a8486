"""Scene 1: a tenant, its keys, and budgets on three levels.

The rule that lives here: each later scene spends from a budget that this one provides, so
one place says who may spend how much.
"""

from __future__ import annotations

from rich.text import Text

from bursar import money
from bursar.cli.demo.api import Answer, expect
from bursar.cli.demo.scenes import crash, lease, runaway, rush, swarm
from bursar.cli.demo.show import table
from bursar.cli.demo.stage import TENANT, Check, Outcome, Scene, Stage, scope, subject, usd
from bursar.vocabulary import ErrorCode, Permission, Unit

TENANT_BUDGET = 500 * money.USD


def budgets(stage: Stage) -> list[tuple[str, int]]:
    """Return the scope and the amount of each budget, parents first."""
    return [
        (scope(), TENANT_BUDGET),
        (scope(runaway.WORKSPACE), 20 * money.USD),
        (scope(runaway.WORKSPACE, runaway.AGENT), runaway.BUDGET),
        (scope(swarm.WORKSPACE), swarm.budget(stage)),
        (scope(crash.WORKSPACE), crash.BUDGET),
        (scope(lease.WORKSPACE), 2 * money.USD),
        (scope(lease.WORKSPACE, lease.AGENT), lease.BUDGET),
        (scope(rush.WORKSPACE), 100 * money.USD),
        (scope(rush.WORKSPACE, rush.AGENT), rush.budget(stage)),
    ]


async def play(stage: Stage) -> Outcome:
    """Create tenant, keys and budgets as the operator."""
    api, wanted = stage.api, budgets(stage)
    await api.provision("/v1/admin/tenants", {"tenant_id": TENANT, "name": "Acme Agents"})
    api.secret = await _key(stage, "agents")
    looker = await _key(stage, "auditor", Permission.BALANCES_READ, Permission.RESERVATIONS_LIST)
    told: list[Answer] = []
    with stage.show.watch("budgets", len(wanted)) as advance:
        for path, amount in wanted:
            told.append(await _budget(stage, path, amount))
            advance(len(told), path)
    refused = await api.reserve(
        subject(runaway.WORKSPACE, runaway.AGENT), "probe", 1, "probe", secret=looker
    )
    expect(refused, 403, ErrorCode.FORBIDDEN)
    full = [answer.said["remaining"]["amount"] for answer in told]
    shown = table("scope", ">budget", "for")
    for path, amount in wanted:
        shown.add_row(_tree(path), usd(amount), Text(_FOR.get(path, ""), style="dim"))
    return Outcome(
        tables=[shown],
        checks=[
            Check(
                f"{len(told)} budgets on 3 levels; all of each is remaining",
                full == [amount for _, amount in wanted],
            ),
            Check(
                f"a key that may only read cannot reserve: {refused.status} {refused.code}",
                Permission.RESERVATIONS_CREATE.value in refused.said["message"],
            ),
        ],
        figures={
            "tenant": TENANT,
            "budgets": [{"scope": path, "allocated_microcents": amount} for path, amount in wanted],
        },
    )


async def _key(stage: Stage, name: str, *permissions: Permission) -> str:
    body: dict[str, object] = {"tenant_id": TENANT, "name": name}
    if permissions:
        body["permissions"] = [permission.value for permission in permissions]
    answer = await stage.api.provision("/v1/admin/api-keys", body, secret=True)
    return str(answer.said["key_secret"])


async def _budget(stage: Stage, path: str, amount_microcents: int) -> Answer:
    unit = Unit.USD_MICROCENTS.value
    body = {
        "tenant_id": TENANT,
        "scope": path,
        "unit": unit,
        "allocated": {"unit": unit, "amount": amount_microcents},
    }
    return await stage.api.provision("/v1/admin/budgets", body)


def _tree(path: str) -> str:
    """Return the last segment of a scope, indented by its level."""
    return "  " * path.count("/") + path.rpartition("/")[2]


_FOR = {
    scope(): "everything below",
    scope(runaway.WORKSPACE, runaway.AGENT): "scene 2, a runaway agent",
    scope(swarm.WORKSPACE): "scene 3, fifty agents at once",
    scope(crash.WORKSPACE): "scene 4, a crash",
    scope(lease.WORKSPACE, lease.AGENT): "scene 5, an expired lease",
    scope(rush.WORKSPACE, rush.AGENT): "scene 6, ten minutes of traffic",
}


SCENE = Scene(
    name="provision",
    title="1  One tenant, three levels of budgets",
    shows="Spending counts in every budget above the agent, at once or not at all.",
    play=play,
)
