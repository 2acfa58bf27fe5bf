"""Real processes whose computers' clocks differ by a day, on one PostgreSQL: one clock counts, the database's (I20)."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutState
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from phoenix_fleet.rollout.planning import draw_plan, freeze
from tests.postgres import PostgresServer
from tests.rollout.real_holder import FLEET, WATCH, deps
from tests.rollout.scene import NEW, OLD, digest_of

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), Path("/usr/lib/faketime/libfaketime.so.1"))
SKEWS = {"ahead": "+24h", "behind": "-24h", "a little ahead": "+5m"}
REPOSITORY = Path(__file__).resolve().parents[2]


def prepare(catalog: Catalog, folder: Path) -> None:
    """Two releases, three machines on the older one, in service, and a rollout of the newer one."""
    world = deps(catalog, folder)
    for version in (OLD, NEW):
        artefact = Artefact("fake", f"registry/base@{digest_of(version)}", digest_of(version))
        catalog.images.open_candidate("base", version.window, f"inputs-{version}", "builder", run=f"build-{version}")
        catalog.images.add_artefact("base", version, artefact)
        for rung in CLIMB[1:]:
            image = catalog.images.move("base", version, rung, actor="builder")
        world.platform.add_image(artefact, "base", str(version), image.rung)  # type: ignore[attr-defined]
    old = Artefact("fake", f"registry/base@{digest_of(OLD)}", digest_of(OLD))
    for slot in FLEET.slots:
        born = world.platform.launch(LaunchIntent("web", slot, f"seed-{slot}", 1, "base", str(OLD), old))
        while (seen := world.platform.get_instance(born.id)).state is not InstanceState.RUNNING:
            pass
        world.balancer.admit(seen)
        for _ in range(3):
            world.balancer.state(seen)
    plan = draw_plan(world, FLEET, catalog.images.get("base", NEW), ())
    catalog.rollouts.open(
        "web", "base", NEW, NEW.window, "run-1", plan.slots, settings=freeze(FLEET), actor="airflow", reason="refresh"
    )


def start(name: str, skew: str, url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.rollout.real_holder", url, str(folder), name],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": f"{REPOSITORY / 'include'}{os.pathsep}{REPOSITORY}",
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME": skew,
            "DONT_FAKE_MONOTONIC": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.postgres
@pytest.mark.slow
def test_holders_whose_clocks_differ_by_days_replace_each_machine_once(
    postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    name = postgres_server.create_database(postgres_template)
    url = postgres_server.url(name)
    with Catalog(url) as catalog:
        prepare(catalog, tmp_path)
        holders = {who: start(who, skew, url, tmp_path) for who, skew in SKEWS.items()}
        said = {who: process.communicate(timeout=120)[0] for who, process in holders.items()}
        assert [process.returncode for process in holders.values()] == [0, 0, 0], said
        for who, off in (("ahead", 24), ("behind", -24)):
            clock = datetime.fromisoformat(said[who].split()[1])
            assert abs(clock - datetime.now(UTC) - timedelta(hours=off)) < timedelta(minutes=5), "it was not skewed"

        rollout = catalog.rollouts.list_rollouts("web")[0]
        assert catalog.rollouts.complete(rollout.id).state is RolloutState.DONE
        world = deps(catalog, tmp_path)
        machines = world.platform.machines().values()  # type: ignore[attr-defined]
        born = [each for each in machines if each["version"] == str(NEW)]
        assert sorted(each["slot"] for each in born) == list(FLEET.slots), "each once"
        assert all(each["state"] is InstanceState.GONE for each in machines if each["version"] == str(OLD))
        events = catalog.events.list_events("", 1000)
        assert "slot.taken_over" not in [each.kind for each in events], "a live lease was taken for dead"
        assert all(abs(each.at - datetime.now(UTC)) < timedelta(minutes=5) for each in events)
        for seq in (1, 2, 3):
            slot = catalog.rollouts.slot(rollout.id, seq)
            watched = datetime.fromisoformat(slot.facts["watched_last"]) - datetime.fromisoformat(
                slot.facts["watched_from"]
            )
            assert watched >= WATCH - timedelta(seconds=1)
        catalog.events.verify()
    postgres_server.drop_database(name)
