"""The engine itself over each real driver with data volumes: a fleet of two moves its data to new instances."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from phoenix_fleet.balancers import none as no_balancer
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.config import Fleet
from phoenix_fleet.configurators import fake as fake_configurator
from phoenix_fleet.domain.ladder import CLIMB, Rung
from phoenix_fleet.domain.models import Environment, Image, InstanceState, LaunchIntent
from phoenix_fleet.domain.volumes import VolumeIntent
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.gates import fake as fake_gate
from phoenix_fleet.platforms.base import Volumes
from phoenix_fleet.rollout.deps import Deps, NamedGate
from phoenix_fleet.rollout.engine import Engine
from phoenix_fleet.rollout.planning import draw_plan, freeze
from tests.contract.test_volumes import attached, running

if TYPE_CHECKING:
    from tests.contract.test_volumes import Lab

OLD, NEW = Version.parse("2026.10-1"), Version.parse("2026.11-1")
LONGEST = timedelta(minutes=5)


def refuse(conn_id: str) -> Any:
    raise AssertionError(conn_id)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    made = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    made.migrate()
    yield made
    made.close()


def release(catalog: Catalog, lab: Lab, version: Version) -> Image:
    image = catalog.images.open_candidate("lab", version.window, f"inputs-{version}", "builder", run=f"build-{version}")
    catalog.images.add_artefact("lab", version, lab.artefact("lab", str(version)))
    for rung in CLIMB[1 : CLIMB.index(Rung.RELEASED) + 1]:
        image = catalog.images.move("lab", version, rung, actor="builder")
    return image


def seed(lab: Lab, fleet: Fleet, slot: str, image: Image) -> str:
    """An instance with its data, as an earlier rollout would have left it; the volume's id."""
    wanted = lab.volume_intent(fleet.name)
    intent = LaunchIntent(
        fleet=fleet.name,
        slot=slot,
        purpose=f"seed-{slot}",
        attempt=1,
        family="lab",
        version=str(image.version),
        artefact=image.artefacts[lab.name],
        settings=lab.settings,
        zone=wanted.zone,
    )
    born = running(lab.platform, lab.platform.launch(intent))
    volume = VolumeIntent(fleet.name, slot, "data", 1, zone=born.zone, settings=lab.settings)
    return attached(lab.platform, volume, born).id


def test_two_slots_keep_their_data(volumes_lab: Lab, catalog: Catalog, tmp_path: Path) -> None:
    lab = volumes_lab
    name = f"t{uuid.uuid4().hex[:8]}"
    fleet = Fleet.model_validate(
        {
            "fleet": name,
            "family": "lab",
            "owners": {"team": "tests"},
            "size": 2,
            "platform": {lab.name: dict(lab.settings)},
            "watch_time": "1s",
            "waves": ["100%"],
            "max_surge": "0",
            "max_unavailable": "1",
            "volumes": [{"name": "data", "size": "1g", "mount": "/srv/data"}],
            "quorum": ["fake"],
        }
    )
    old, new = release(catalog, lab, OLD), release(catalog, lab, NEW)
    kept = {slot: seed(lab, fleet, slot, old) for slot in fleet.slots}
    before = {each.slot: each.attached_to for each in lab.platform.list_volumes(name)}
    gate = fake_gate.Driver(fake_gate.Settings(), refuse, tmp_path)
    platform, story = lab.again(), list[str]()
    assert isinstance(platform, Volumes)
    deps = Deps(
        catalog=catalog,
        platform=platform,
        balancer=no_balancer.Driver(no_balancer.Settings(), refuse),
        configurator=fake_configurator.Driver(fake_configurator.Settings(), refuse),
        verify_gates=(),
        watch_gates=(),
        environment=Environment("production"),
        ssh_probe=lambda instance: instance.host_keys,
        workdir=tmp_path / "proof",
        log=story.append,
        volumes=platform,
        quorum_gates=(NamedGate("quorum", gate),),
    )
    plan = draw_plan(deps, fleet, new)
    rollout = catalog.rollouts.open(
        name, "lab", NEW, NEW.window, "run-1", plan.slots, settings=freeze(fleet), actor="tests", reason="refresh"
    )
    engine = Engine(deps, fleet, new, rollout)
    end = time.monotonic() + LONGEST.total_seconds()
    for wave in (0, 1):
        ticket = catalog.rollouts.claim(rollout.id, wave, f"worker-{wave}", lease=LONGEST, max_in_flight=1)
        assert ticket is not None
        while (progress := engine.advance(ticket)).state != "done":
            assert time.monotonic() < end, "\n".join([*story, progress.message])
            time.sleep(min(progress.check_after.total_seconds(), 1))
    assert catalog.rollouts.complete(rollout.id).state is RolloutState.DONE

    machines = {each.id: each for each in lab.platform.list_instances(name) if each.state is InstanceState.RUNNING}
    volumes = lab.platform.list_volumes(name)
    assert {each.slot: each.id for each in volumes} == kept, "no volume was made in the place of another"
    assert {each.slot: machines[each.attached_to].version for each in volumes} == dict.fromkeys(fleet.slots, str(NEW))
    assert all(machines[each.attached_to].slot == each.slot for each in volumes)
    for slot, volume in kept.items():
        assert len(lab.platform.list_snapshots(volume)) == 1, slot
    assert not set(before.values()) & set(machines)
    assert not [each for each in catalog.intents.list_intents() if each.outcome != "done"]
    assert [each.instance.slot for each in gate.calls if each.instance] == [
        *[fleet.slots[1]] * 2,
        *[fleet.slots[0]] * 2,
    ]
