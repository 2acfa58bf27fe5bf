"""The reaper on real containers: what a crash left goes, what is not ours or not explained is not even asked about."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import Blind
from phoenix_fleet.domain.models import Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms.docker import Driver
from phoenix_fleet.rollout.reaping import Reaper
from phoenix_fleet.rollout.throwaway import FLEET
from tests.contract import machinery
from tests.contract.platforms_docker import DockerLab

pytestmark = pytest.mark.docker
HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> ManualClock:
    """Ahead of the engine's own, so that everything here is old."""
    return ManualClock(datetime.now(UTC) + 24 * HOUR)


@pytest.fixture
def catalog(tmp_path: Path, clock: ManualClock) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path}/catalog.db", clock) as found:
        found.migrate()
        yield found


def intent_of(lab: DockerLab, family: str, slot: str) -> LaunchIntent:
    return LaunchIntent(FLEET, slot, f"image.{family}/killed", 1, family, "2026.11-1", lab.standard)


def launched(lab: DockerLab, catalog: Catalog, intent: LaunchIntent) -> Instance:
    """What a test that was killed right after its launch leaves behind."""
    params = {**dataclasses.asdict(intent), "name": intent.name}
    catalog.intents.begin("launch", intent.slot, params, ticket=None, purpose=intent.purpose, token=intent.token)
    return lab.platform.launch(intent)


def test_left_over_containers_go_and_nobody_elses(docker_lab: DockerLab, catalog: Catalog, clock: ManualClock) -> None:
    family = f"f{uuid.uuid4().hex[:8]}"
    mine = launched(docker_lab, catalog, intent_of(docker_lab, family, "test-docker"))
    unexplained = docker_lab.platform.launch(intent_of(docker_lab, family, "test-unexplained"))
    look_alike = docker_lab.foreign(f"test-docker-{family}", {"phoenix.owner": "someone", "phoenix.fleet": FLEET})
    log: list[str] = []
    told = []
    for _ in range(4):
        reaper = Reaper(
            docker_lab.again(),
            catalog,
            FLEET,
            family=family,
            place="docker",
            log=log.append,
            clock=clock,
            rules=reaping.THROWAWAYS,
        )
        told += reaper.run(actor="airflow", reason="hourly").told
        clock.advance(HOUR)
    assert told == [mine.name]
    assert docker_lab.count(mine.token) == 0
    assert docker_lab.is_alive(unexplained.id)
    assert docker_lab.is_alive(look_alike)
    assert any(line.startswith(f"not explained {unexplained.name}") for line in log)
    terminations = [each for each in catalog.intents.list_intents() if each.action == "terminate"]
    assert [(each.target, each.outcome) for each in terminations] == [(mine.id, "done")]


def test_an_engine_that_does_not_answer_shows_nothing(
    docker_lab: DockerLab, catalog: Catalog, clock: ManualClock, tmp_path: Path
) -> None:
    mine = launched(docker_lab, catalog, intent_of(docker_lab, "lab", "test-docker"))
    nowhere = Connection("docker", host=f"unix://{tmp_path}/none.sock")
    away = Driver(docker_lab.platform.settings, machinery.KnownConnections(nowhere, docker_lab.connections("registry")))
    reaper = Reaper(away, catalog, FLEET, family="lab", place="docker", log=print, clock=clock)
    head = catalog.events.head()
    with pytest.raises(Blind):
        reaper.run(actor="airflow", reason="hourly")
    assert catalog.events.head() == head
    assert docker_lab.platform.get_instance(mine.id).state is not InstanceState.GONE
