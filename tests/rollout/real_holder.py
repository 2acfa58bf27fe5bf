"""A holder in a process of its own: the engine over a fleet on file-based fakes, whatever its computer's clock says.

``python -m tests.rollout.real_holder URL FOLDER NAME`` works on the open rollout until nothing is left, and prints
what its own clock says. The world's time, as the catalog's, is the database's.
"""

from __future__ import annotations

import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from phoenix_fleet.airflow.process import LeaseKeeper
from phoenix_fleet.balancers import fake as fake_balancer
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import SlotState, Ticket
from phoenix_fleet.config import Fleet
from phoenix_fleet.configurators import fake as fake_configurator
from phoenix_fleet.domain.errors import TransientError
from phoenix_fleet.domain.models import Environment
from phoenix_fleet.platforms import fake as fake_platform
from phoenix_fleet.rollout.deps import Deps
from phoenix_fleet.rollout.engine import Engine
from tests.rollout.scene import no_connections

LEASE = timedelta(seconds=3)
WATCH = timedelta(seconds=2)
FLEET = Fleet.model_validate(
    {
        "fleet": "web",
        "family": "base",
        "owners": {"team": "shop"},
        "size": 3,
        "platform": "fake",
        "balancer": "fake",
        "configurator": "fake",
        "watch_time": f"{WATCH.seconds}s",
        "waves": ["100%"],
    }
)


def deps(catalog: Catalog, folder: Path) -> Deps:
    """What the engine works with; every process that is given the folder sees the same world."""
    state = str(folder / "world.json")
    platform = fake_platform.Driver(fake_platform.Settings(state=state), no_connections, clock=catalog.clock)
    balancer = fake_balancer.Driver(fake_balancer.Settings(state=state), no_connections, clock=catalog.clock)
    return Deps(
        catalog=catalog,
        platform=platform,
        balancer=balancer,
        configurator=fake_configurator.Driver(fake_configurator.Settings(), no_connections),
        verify_gates=(),
        watch_gates=(),
        environment=Environment("production", (), {}),
        ssh_probe=lambda instance: instance.host_keys,
        workdir=folder,
        log=lambda line: print(line, flush=True),
        clock=catalog.clock,
    )


def work(catalog: Catalog, folder: Path, name: str) -> None:
    """Replace what is left, ticket by ticket."""
    rollout = catalog.rollouts.list_rollouts("web")[0]
    engine = Engine(deps(catalog, folder), FLEET, catalog.images.get("base", rollout.version), rollout)
    while left := [each.wave for each in catalog.rollouts.slots(rollout.id) if each.state is not SlotState.DONE]:
        try:
            ticket = catalog.rollouts.claim(rollout.id, min(left), name, lease=LEASE, max_in_flight=1)
        except TransientError:
            _pause(0.1)
            continue
        if ticket is not None:
            with LeaseKeeper(catalog, ticket, LEASE):
                _bring_to_its_end(engine, ticket)


def _bring_to_its_end(engine: Engine, ticket: Ticket) -> None:
    while (progress := engine.advance(ticket)).state != "done":
        _pause(progress.check_after.total_seconds())


def _pause(seconds: float) -> None:
    # Not time.sleep: the kernel refuses its absolute moments where libfaketime leaves the monotonic clock alone.
    threading.Event().wait(seconds)


if __name__ == "__main__":
    print(f"clock {datetime.now(UTC).isoformat()}", flush=True)
    with Catalog(sys.argv[1]) as opened:
        work(opened, Path(sys.argv[2]), sys.argv[3])
