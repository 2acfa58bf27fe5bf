"""Fleets on VMware, from vCenter's API to the last request: a simulated vCenter whose machines are containers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import guests, haproxy
from lab.guests import NEW, PORT
from lab.places import Places
from lab.vmware_lab import BACKEND, PLACE, VmwareLab, inventory_of, machines
from phoenix_fleet.connections import Connection
from phoenix_fleet.platforms import _vmware_session as sessions
from phoenix_fleet.rollout.progress import Progress
from tests.contract.machinery import KnownConnections, wait_for
from tests.e2e.impostor import answering_instead
from tests.e2e.refresh import Ground, check_halted, make_key, refresh_under_traffic
from tests.sampling import machines_of_the_day

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.vmware, machines_of_the_day("vmware")]
BALANCER = {"haproxy": {"connection": "haproxy", "backend": BACKEND, "port": PORT, "check_interval_ms": 400}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VmwareLab]:
    folder = tmp_path_factory.mktemp("vmware")
    lab = VmwareLab(Places(folder / "home", folder / "run", Places.find().cache), print)
    try:
        lab.up()
        yield lab
    finally:
        sessions.close_all()
        lab.down()
    assert lab.left_over() == []


@pytest.fixture(scope="module")
def ground(lab: VmwareLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder, inventory = tmp_path_factory.mktemp("project"), lab.inventory()
    connections = KnownConnections(
        lab.connection(),
        Connection("haproxy", extra={"socket": lab.front().control}),
        Connection("phoenix_ssh", extra={"key_file": str(make_key(folder))}),
    )
    ground = Ground(folder, connections, {version: inventory.artefact(version) for version in inventory.artefacts})
    ground.declare("web", platform={"vmware": PLACE}, balancer=BALANCER)
    yield ground
    ground.catalog.close()


@pytest.fixture
def census(lab: VmwareLab, ground: Ground) -> Callable[[], None]:
    """What vCenter, the engine and the balancer hold is what the catalog says, and nothing more."""

    def check() -> None:
        promised = ground.promised()
        known = [each for name in ground.fleets for each in ground.instances(name)]
        assert {each.id for each in known} == promised
        with inventory_of(lab.connection()) as content:
            there = [each for each in machines(content) if not each.config.template]
            assert {each.config.instanceUuid for each in there} == promised
        names = {each["Names"][0].lstrip("/") for each in guests.containers(lab.owner)}
        assert {name.removeprefix("vcsim-")[: -len("-00000000-0000-0000-0000-000000000000")] for name in names} == {
            each.name for each in known
        }
        with guests.engine() as engine:
            volumes = {each["Name"] for each in engine.volumes(filters={"name": "vcsim-"})["Volumes"] or ()}
        assert {each for each in volumes if each.startswith(tuple(f"vcsim-{name}" for name in ground.fleets))} == names
        servers = haproxy.servers(Path(lab.front().control), BACKEND)
        assert servers == sorted(each.name for each in known if each.fleet == "web")

    return check


def test_what_runs_is_left_alone(lab: VmwareLab) -> None:
    began = time.monotonic()
    assert lab.up() == lab.inventory()
    assert time.monotonic() - began < 1


def test_what_a_killed_lab_has_left_is_gone_when_it_is_told_to_stop(tmp_path: Path) -> None:
    lab = VmwareLab(Places(tmp_path / "home", tmp_path / "run", Places.find().cache), print)
    try:
        lab.up()
        with inventory_of(lab.connection()) as content:
            (template, *_) = machines(content)
            pool = content.rootFolder.childEntity[0].hostFolder.childEntity[0].resourcePool
            template.CloneVM_Task(template.parent, "left-over", clone_spec(pool))
            wait_for(lambda: guests.containers(lab.owner), "its machine", seconds=30)
        kill(lab)
        assert guests.containers(lab.owner)
    finally:
        lab.down()
    assert lab.left_over() == []
    with guests.engine() as engine:
        volumes = [each["Name"] for each in engine.volumes(filters={"name": "vcsim-left-over"})["Volumes"] or ()]
    assert volumes == []


def clone_spec(pool: Any) -> Any:
    from pyVmomi import vim

    return vim.vm.CloneSpec(location=vim.vm.RelocateSpec(pool=pool), powerOn=True, template=False)


def kill(lab: VmwareLab) -> None:
    """As the machine's own trouble would: it cannot clear up."""
    pid = lab.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not lab.running(), "its death")


def test_a_fleet_is_refreshed_under_traffic_and_halted_by_a_bad_image(
    lab: VmwareLab, ground: Ground, census: Callable[[], None]
) -> None:
    refresh_under_traffic(ground, "web", lab.front().url, census)


@pytest.mark.parametrize("step", ["ready", "configure"])
def test_an_impostor_at_the_address_halts_the_rollout(
    lab: VmwareLab, ground: Ground, census: Callable[[], None], step: str
) -> None:
    """It runs the same image and would let us in: only its host key is another than the one that the guest told."""
    name = f"one-{step}"
    ground.declare(name, platform={"vmware": PLACE}, balancer="none", size=1)
    ground.fill(name)
    (old,) = ground.instances(name)
    with answering_instead(lab.owner, ground.key.with_suffix(".pub").read_text()) as take_over:

        def between(progress: Progress) -> None:
            if progress.state == "moved" and progress.step == {"ready": "launch", "configure": "ready"}[step]:
                (new,) = wait_for(lambda: [each for each in ground.instances(name) if each.version == NEW], "the clone")
                wait_for(lambda: ground.platform(name).get_instance(new.id).host_keys, "its host keys")
                names = [each["Names"][0].lstrip("/") for each in guests.containers(lab.owner)]
                (container,) = [each for each in names if each.startswith(f"vcsim-{new.name}-")]
                take_over(container)

        reason = check_halted(ground, name, step, lambda: ground.refresh(name, NEW, between))
    assert "host key" in reason
    assert ground.instances(name) == [old]
    census()
