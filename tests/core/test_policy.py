"""Policies: which one governs, and what each of its fields then does."""

import pytest

from bursar.core import scopes
from bursar.core.commands import CreatePolicy
from bursar.core.outcomes import Refused
from bursar.vocabulary import POLICIES_ACTIVE_MAX
from core import script
from core.table import Scenario, play, scenarios
from core.world import World

GOVERNING = scenarios("""
== the highest priority wins, whatever the order of making and the length of the pattern
given budget acme allocated=1000
given policy long at=acme/agent:bot caps=1
given policy high at=agent:* priority=2 caps=2
given policy low at=acme/* priority=1 caps=3
reserve a 1 at=acme/agent:bot  -> ALLOW_WITH_CAPS caps=2

== of equal priority the longer pattern wins, then the smaller id
given budget acme allocated=1000
given policy b at=agent:* caps=1
given policy z at=acme/agent:bot caps=2
given policy y at=acme/agent:bot caps=3
reserve a 1 at=acme/agent:bot    -> ALLOW_WITH_CAPS caps=3
reserve b 1 at=acme/agent:other  -> ALLOW_WITH_CAPS caps=1

== policies are not merged: what the one that governs does not say, the tenant says
given tenant acme overage=REJECT ttl=20s
given budget acme allocated=1000
given policy first at=acme priority=1 caps=5
given policy second at=acme overage=AWO ttl=1h reserves=1
reserve a 1    -> ALLOW_WITH_CAPS expires=20s
reserve b 1    -> ALLOW_WITH_CAPS
reservation a  -> ACTIVE overage=REJECT

== only the deepest scope of the subject is matched, not its ancestors
given budget acme allocated=1000
given policy p at=acme caps=5
reserve a 1                     -> ALLOW_WITH_CAPS
reserve b 1 at=acme/agent:bot   -> ALLOW caps=-

== a disabled policy is not looked at
given budget acme allocated=1000
given policy p at=acme caps=5 status=DISABLED
reserve a 1  -> ALLOW caps=-

== the window includes both of its ends
given budget acme allocated=1000
given policy p at=acme caps=5 from=10s until=20s
tick 9999ms
reserve a 1  -> ALLOW caps=-
tick 1ms
reserve b 1  -> ALLOW_WITH_CAPS caps=5
tick 10s
reserve c 1  -> ALLOW_WITH_CAPS caps=5
tick 1ms
reserve d 1  -> ALLOW caps=-

== a window may be open at either end
given budget acme allocated=1000
given policy since at=acme/agent:a caps=5 from=10s
given policy till at=acme/agent:b caps=6 until=10s
reserve a 1 at=acme/agent:a  -> ALLOW
reserve b 1 at=acme/agent:b  -> ALLOW_WITH_CAPS caps=6
tick 365d
reserve c 1 at=acme/agent:a  -> ALLOW_WITH_CAPS caps=5
reserve d 1 at=acme/agent:b  -> ALLOW

== a policy of another tenant never counts, whatever its pattern
given budget acme allocated=1000
given policy p at=agent:* as=other caps=5 reserves=1
reserve a 1 at=acme/agent:bot  -> ALLOW caps=-
reserve b 1 at=acme/agent:bot  -> ALLOW
""")

CAPS = scenarios("""
== caps come with decide, a dry run and a live reserve, and change no amount
given budget acme allocated=1000
given policy p at=acme caps=5
decide 1000                 -> ALLOW_WITH_CAPS caps=5
reserve a 1000 dry_run=yes  -> ALLOW_WITH_CAPS caps=5 balances=acme:1000
reserve b 1000              -> ALLOW_WITH_CAPS caps=5 reserved=1000 balances=acme:0
decide 1                    -> DENY caps=- reason=BUDGET_EXCEEDED
reserve c 1                 -> BUDGET_EXCEEDED

== empty caps are no caps
given budget acme allocated=1000
create_tenant acme
create_policy p at=acme caps=none  -> ACTIVE caps=-
reserve a 1                        -> ALLOW caps=-
""")

TERMS = scenarios("""
== overage: the request, then the policy, then the budget, then the tenant
given tenant acme overage=AIA
given budget acme allocated=1000 overage=AWO
given policy p at=acme overage=REJECT
reserve a 1              -> ALLOW
reserve b 1 overage=AIA  -> ALLOW
reservation a            -> ACTIVE overage=REJECT
reservation b            -> ACTIVE overage=AIA
debit e 1001             -> BUDGET_EXCEEDED
debit e 1001 overage=AIA -> APPLIED charged=998

== a lease: the policy's default and maximum instead of the tenant's, each for itself
given tenant acme ttl=30s ttl_max=1h extensions=7
given budget acme allocated=1000
given policy p at=acme/agent:a ttl=20s
given policy q at=acme/agent:b ttl_max=10s
given policy r at=acme/agent:c extensions=1
given policy s at=acme/agent:d ttl_max=24h
reserve a 1 at=acme/agent:a          -> ALLOW expires=20s
reserve b 1 at=acme/agent:b          -> ALLOW expires=10s
reserve c 1 at=acme/agent:c          -> ALLOW expires=30s
reserve d 1 at=acme/agent:a ttl=2h   -> ALLOW expires=1h
reserve e 1 at=acme/agent:d ttl=24h  -> ALLOW expires=24h
reservation a  -> ACTIVE extensions=0/7
reservation c  -> ACTIVE extensions=0/1
extend c 1s    -> ACTIVE
extend c 1s    -> MAX_EXTENSIONS_EXCEEDED

== what was settled with the reservation outlives every later change of the policy
create_tenant acme
given budget acme allocated=1000
create_policy p at=acme overage=REJECT ttl=20s extensions=0
reserve a 1                                           -> ALLOW expires=20s
update_policy p overage=AWO ttl=40s extensions=9      -> ACTIVE
reserve b 1                                           -> ALLOW expires=40s
reservation a  -> ACTIVE overage=REJECT extensions=0/0 expires=20s
reservation b  -> ACTIVE overage=AWO extensions=0/9
""")

# The world begins 20 s into a minute.
RATES = scenarios("""
== reserves: as many as allowed in a minute of the ledger, then a wait until the next one
given budget acme allocated=1000
given policy p at=acme reserves=2
reserve a 1   -> ALLOW
tick 10s
reserve b 1   -> ALLOW
reserve c 1   -> LIMIT_EXCEEDED policy=p retry=30s reason=LIMIT_EXCEEDED scope=- fix=-
tick 29999ms
reserve c 1   -> LIMIT_EXCEEDED retry=1ms
tick 1ms
reserve c 1   -> ALLOW
reserve d 1   -> ALLOW
reserve e 1   -> LIMIT_EXCEEDED retry=60s

== only what was accepted counts: not refusals, replays, decisions or dry runs
given budget acme allocated=10
given policy p at=acme reserves=2
reserve a 11               -> BUDGET_EXCEEDED
reserve b 1 dry_run=yes    -> ALLOW
decide 1                   -> ALLOW
reserve c 1 key=k          -> ALLOW
reserve c 1 key=k          -> replay
reserve d 1                -> ALLOW
reserve e 1                -> LIMIT_EXCEEDED
decide 1                   -> ALLOW
reserve f 1 dry_run=yes    -> ALLOW
reserve c 1 key=k          -> replay

== a limit is reached before any budget is looked at, and after the tenant
given budget acme allocated=2
given policy p at=acme reserves=1
reserve a 1   -> ALLOW
reserve b 99  -> LIMIT_EXCEEDED
reserve c 1 unit=TOKENS  -> LIMIT_EXCEEDED
given tenant acme status=SUSPENDED
reserve d 1   -> FORBIDDEN

== each scope is counted for itself, and so is each policy
given budget acme allocated=1000
given policy p at=agent:* reserves=1
reserve a 1 at=acme/agent:a  -> ALLOW
reserve b 1 at=acme/agent:b  -> ALLOW
reserve c 1 at=acme/agent:a  -> LIMIT_EXCEEDED policy=p
given policy q at=acme/agent:a reserves=1
reserve d 1 at=acme/agent:a  -> ALLOW
reserve e 1 at=acme/agent:a  -> LIMIT_EXCEEDED policy=q

== reserves and commits are counted apart
given budget acme allocated=1000
given policy p at=acme reserves=2 commits=1
reserve a 1 ttl=1h   -> ALLOW
reserve b 1 ttl=1h   -> ALLOW
commit a 1           -> COMMITTED
commit b 1           -> LIMIT_EXCEEDED policy=p retry=40s
tick 40s
commit b 1           -> COMMITTED

== a commit that is refused or replayed does not count, and its state speaks first
given budget acme allocated=1000
given policy p at=acme commits=1
reserve a 1 overage=REJECT    -> ALLOW
reserve b 1                   -> ALLOW
commit a 2                    -> BUDGET_EXCEEDED
commit a 1 key=k              -> COMMITTED
commit a 1 key=k              -> replay
commit a 1                    -> RESERVATION_FINALIZED
commit nobody 1               -> NOT_FOUND
commit b 1 unit=TOKENS        -> UNIT_MISMATCH
commit b 1                    -> LIMIT_EXCEEDED
release b                     -> RELEASED

== a limit delays a commit but never loses its cost: without time to wait it passes
given budget acme allocated=1000
given policy p at=acme commits=1
reserve a 1 ttl=1h                -> ALLOW
reserve b 1 ttl=35s grace=5s      -> ALLOW
reserve c 1 ttl=35s grace=4999ms  -> ALLOW
commit a 1                        -> COMMITTED
commit b 1                        -> LIMIT_EXCEEDED retry=40s
commit c 1                        -> COMMITTED charged=1

== a debit is never throttled
given budget acme allocated=1000
given policy p at=acme reserves=1 commits=1
debit a 1  -> APPLIED
debit b 1  -> APPLIED
debit c 1  -> APPLIED

== a raised limit counts at once, and so does what was counted before
create_tenant acme
given budget acme allocated=1000
create_policy p at=acme reserves=1
reserve a 1                   -> ALLOW
reserve b 1                   -> LIMIT_EXCEEDED
update_policy p reserves=2    -> ACTIVE rates=2/-
reserve b 1                   -> ALLOW
reserve c 1                   -> LIMIT_EXCEEDED
update_policy p rates=none    -> ACTIVE rates=-/-
reserve c 1                   -> ALLOW
""")

VERBS = scenarios("""
== create: the tenant must be there, and a name is used once
create_policy p at=acme                -> TENANT_NOT_FOUND says=acme
create_tenant acme
tick 5s
create_policy p at=acme/* name=A priority=3 description=x caps=5 overage=AWO ttl=1s ttl_max=2s \
extensions=3 reserves=4 commits=5 from=1s until=9s -> ACTIVE created=yes made=5s updated=5s
policy p      -> ACTIVE name=A description=x at=acme/* priority=3 caps=5 overage=AWO
policy p      -> ACTIVE ttl=1000ms/2000ms extensions=3 rates=4/5 from=1s until=9s
create_policy q at=acme name=A         -> DUPLICATE_RESOURCE says='A'
update_policy p status=DISABLED        -> DISABLED
create_policy q at=acme name=A         -> DUPLICATE_RESOURCE
create_policy q at=acme name=B         -> ACTIVE
create_tenant other
create_policy r at=other name=A as=other -> ACTIVE
log acme                               -> 4 last=CreatePolicy

== update: what is absent stays, an object is replaced whole
create_tenant acme
create_policy p at=acme priority=3 description=x caps=5 overage=AWO ttl=1s extensions=3 \
reserves=4 commits=5 from=1s until=9s
tick 5s
update_policy p name=N               -> ACTIVE created=no made=0s updated=5s
policy p                             -> ACTIVE name=N description=x priority=3 caps=5 overage=AWO
policy p       -> ACTIVE ttl=1000ms/- extensions=3 rates=4/5 from=1s until=9s at=acme
update_policy p description=y        -> ACTIVE description=y
update_policy p priority=0           -> ACTIVE priority=0
update_policy p caps=6               -> ACTIVE caps=6
update_policy p caps=none            -> ACTIVE caps=-
update_policy p overage=AIA          -> ACTIVE overage=AIA
update_policy p ttl_max=2s           -> ACTIVE ttl=-/2000ms extensions=-
update_policy p lease=none           -> ACTIVE ttl=-/- extensions=-
update_policy p commits=9            -> ACTIVE rates=-/9
update_policy p from=2s              -> ACTIVE from=2s until=9s
update_policy p until=2s             -> ACTIVE from=2s until=2s
update_policy p status=DISABLED      -> DISABLED
policy p                             -> DISABLED name=N description=y at=acme

== a change to what it already says changes nothing and is not logged
create_tenant acme
create_policy p at=acme priority=3 caps=5
log acme                                -> 2
tick 5s
update_policy p                         -> ACTIVE updated=0s
update_policy p priority=3 caps=5       -> ACTIVE updated=0s
log acme                                -> 2

== update is refused: unknown, another's name, a window that ends before it begins
create_tenant acme
create_policy p at=acme from=10s
create_policy q at=acme
update_policy nobody priority=1         -> NOT_FOUND says=nobody
update_policy q name=p                  -> DUPLICATE_RESOURCE says='p'
update_policy p name=p priority=1       -> ACTIVE
update_policy p until=9999ms            -> INVALID_REQUEST says=effective_until
create_policy r at=acme from=2s until=1s -> INVALID_REQUEST says=effective_until
update_policy p as=other priority=1     -> NOT_FOUND

== a closed tenant's policies are read-only
create_tenant acme
create_policy p at=acme
close_tenant acme
create_policy q at=acme       -> TENANT_CLOSED
update_policy p priority=1    -> TENANT_CLOSED
policy p                      -> ACTIVE priority=0
""")

PATTERNS = [
    ("tenant:acme", {"tenant:acme"}),
    ("tenant:acme/agent:bot", {"tenant:acme/agent:bot"}),
    ("tenant:acme/*", {"tenant:acme/agent:bot", "deep", "eng", "tenant:acme/app:agent"}),
    ("tenant:acme/workspace:eng/*", {"deep"}),
    ("tenant:acme/workspace:en/*", set[str]()),
    ("agent:*", {"tenant:acme/agent:bot", "deep", "agent:bot"}),
    ("tenant:acme/agent:*", {"tenant:acme/agent:bot", "deep"}),
    ("tenant:acme/workspace:eng/agent:*", {"deep"}),
    ("tenant:*", {"tenant:acme", "tenant:acme/agent:bot", "deep", "eng", "tenant:acme/app:agent"}),
    ("*/agent:bot", {"tenant:acme/agent:bot", "deep", "agent:bot"}),
    ("*/agent:bo", set[str]()),
    ("*/workspace:eng", {"deep", "eng"}),
]
PATHS = {
    **{path: path for path in ("tenant:acme", "tenant:acme/agent:bot", "agent:bot")},
    "eng": "tenant:acme/workspace:eng",
    "deep": "tenant:acme/workspace:eng/agent:bot/toolset:web",
    "tenant:acme/app:agent": "tenant:acme/app:agent",
}


@pytest.mark.parametrize("scenario", GOVERNING + CAPS, ids=str)
def test_which_policy_governs(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", TERMS, ids=str)
def test_what_a_policy_says_of_terms(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", RATES, ids=str)
def test_how_often(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("scenario", VERBS, ids=str)
def test_creating_and_changing(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize(("pattern", "matched"), PATTERNS)
def test_what_a_pattern_matches(pattern: str, matched: set[str]) -> None:
    """Segments match as a whole; a star never reaches above or beside its place."""
    assert scopes.pattern_problem(pattern, "acme") is None
    assert matched == {name for name, path in PATHS.items() if scopes.matches(pattern, path)}


@pytest.mark.parametrize(
    ("pattern", "wrong"),
    [
        ("", "segment '' must be kind:value"),
        ("*", "'*' is no pattern"),
        ("*/*", "segment '*'"),
        ("*/agent:*", "'agent:*' is no pattern; write tenant:acme/agent:bot"),
        ("*/agent:bot/toolset:x", "segment '*'"),
        ("*/team:x", "is no pattern"),
        ("team:*", "kind 'team' must be one of tenant"),
        ("tenant:acme/team:*", "kind 'team' must be one of tenant"),
        ("agent:bot", "must start with tenant:acme, the tenant that owns the policy"),
        ("agent:bot/*", "must start with tenant:acme"),
        ("agent:bot/toolset:*", "must start with tenant:acme"),
        ("tenant:other/*", "must start with tenant:acme"),
        ("tenant:acme-corp", "must start with tenant:acme"),
        ("tenant:acme/agent:*/toolset:x", "value of 'agent'"),
        ("tenant:acme/agent:b*", "value of 'agent'"),
        ("tenant:acme/*/agent:bot", "segment '*'"),
        ("tenant:acme/agent:bot/app:*", "out of order"),
        ("tenant:acme/", "segment '' must be kind:value"),
    ],
)
def test_a_pattern_is_told_what_is_wrong(pattern: str, wrong: str) -> None:
    assert wrong in str(scopes.pattern_problem(pattern, "acme"))


def test_a_tenant_has_a_limited_number_of_active_policies() -> None:
    """Every reservation looks at all active policies, so there is a most; others are free."""
    world = World()
    world.put(
        tenants=[script.tenant(["acme"], {})],
        policies=[script.rules([f"p{number}"], {}) for number in range(POLICIES_ACTIVE_MAX)],
    )

    def run(verb: str, name: str, **options: str) -> object:
        return world.run(script.command(verb, [name], options, ""))

    def refused(outcome: object) -> bool:
        return isinstance(outcome, Refused) and outcome.message.startswith("status: tenant acme")

    assert refused(run("create_policy", "more"))
    assert not refused(run("update_policy", "p0", priority="1"))
    assert not refused(run("update_policy", "p0", status="DISABLED"))
    assert not refused(run("create_policy", "more"))
    assert refused(run("update_policy", "p0", status="ACTIVE"))
    assert CreatePolicy.__name__ == world.log("acme")[-1].verb


def test_one_batch_counts_as_it_goes() -> None:
    """Commands of one transaction share their window: the third reserve is one too many."""
    world = World()
    world.put(budgets=[script.budget(["acme"], {"allocated": "10"})])
    world.put(policies=[script.rules(["p"], {"reserves": "2"})])
    commands = [
        *(script.command("reserve", [name, "1"], {}, f"key-{name}") for name in ("a", "b", "c")),
        script.command("reserve", ["d", "1"], {"dry_run": "yes"}, "key-d"),
        script.command("decide", ["1"], {}, "key-e"),
    ]
    outcomes = world.run_batch(commands)
    refused = [isinstance(outcome, Refused) for outcome in outcomes]
    assert refused == [False, False, True, False, False]
    [meter] = world.tables.meters.values()
    assert (meter.count, meter.scope_path) == (2, "tenant:acme")
