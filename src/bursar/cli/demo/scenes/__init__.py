"""The scenes of the demo, in the order in which they play."""

from __future__ import annotations

from bursar.cli.demo.scenes import audit, crash, lease, provision, runaway, rush, swarm

SCENES = (
    provision.SCENE,
    runaway.SCENE,
    swarm.SCENE,
    crash.SCENE,
    lease.SCENE,
    rush.SCENE,
    audit.SCENE,
)
