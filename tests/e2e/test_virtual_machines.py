"""Fleets of virtual machines, emulated by QEMU and on Xen, refreshed by the real engine under traffic."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lab import qemu_host, xen_host
from lab.places import Places
from phoenix_fleet import ssh
from phoenix_fleet.domain.errors import AuthenticationFailed, StepFailed
from tests.bench.peers.ground import BAD, NEW, OLD, QUICK, SLOW, Visitor
from tests.e2e.virtual import World, world

pytestmark = [pytest.mark.e2e, pytest.mark.libvirt, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Ground:
    """A fleet that serves, on one kind of host."""

    world: World
    port: int
    console: bool
    """Whether the host keeps what machines print."""


@contextmanager
def own_places() -> Iterator[Places]:
    """A lab of this run's own; the cache is everybody's."""
    folder = Path(tempfile.mkdtemp(prefix="phoenix-vm-", dir="/tmp"))
    places = replace(Places.find(), home=folder, run=folder / "run")
    places.make()
    try:
        yield places
    finally:
        shutil.rmtree(folder)


@contextmanager
def qemu() -> Iterator[Ground]:
    with own_places() as places:
        host = qemu_host.of(places, print)
        host.folder.mkdir()
        try:
            host.start()
            with world(host, places.home, places.cache, "kvm", 3) as made, made.filled() as port:
                yield Ground(made, port, console=True)
        finally:
            host.stop()


@contextmanager
def xen() -> Iterator[Ground]:
    with own_places() as places:
        host = xen_host.XenHost(places, print)
        try:
            host.up()
            with world(host, places.home, places.cache, "xen", 2) as made, made.filled() as port:
                yield Ground(made, port, console=False)
        finally:
            host.down()


@pytest.fixture(scope="module", params=[qemu, xen], ids=["qemu", "xen"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with ExitStack() as stack:
        begun = time.monotonic()
        found = stack.enter_context(request.param())
        print(f"the fleet serves after {time.monotonic() - begun:.0f} s")
        yield found


def check_census(ground: Ground) -> None:
    """What the host holds is what the platform lists, nothing else, and nothing is owed."""
    assert ground.world.census() == ground.world.expected(console=ground.console)
    assert ground.world.catalog.intents.pending() == []


class TestRefresh:
    def test_a_machine_is_reached_by_the_key_that_the_platform_tells(self, ground: Ground, tmp_path: Path) -> None:
        world, instance = ground.world, ground.world.instances()[0]
        keys = world.platform.get_instance(instance.id).host_keys

        def said(folder: Path, *host_keys: str) -> subprocess.CompletedProcess[str]:
            folder.mkdir()
            config = ssh.trusting_config(
                folder, whose=instance.name, host_keys=host_keys, identity=world.folder / "id"
            )  # fmt: skip
            argv = ["ssh", "-F", str(config), instance.address, "hostname"]
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

        assert said(tmp_path / "own", *keys).stdout == f"{instance.name}\n"
        other = world.platform.get_instance(world.instances()[1].id).host_keys
        refused = said(tmp_path / "other", *other)
        assert (refused.returncode, refused.stdout) == (255, "")
        with pytest.raises(AuthenticationFailed):
            said(tmp_path / "none")

    def test_a_good_release_replaces_every_machine_and_no_request_fails(self, ground: Ground) -> None:
        world, begun = ground.world, time.monotonic()
        before = {each.slot: each.id for each in world.instances()}

        with Visitor(ground.port, (QUICK, QUICK, QUICK, SLOW), per_second=4) as visitor:
            world.refresh(NEW)

        print(f"{world.size} machines in {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[OLD] > 0
        assert visitor.answers[NEW] > 0
        assert world.versions() == {NEW: world.size}
        after = {each.slot: each.id for each in world.instances()}
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        (rollout,) = world.catalog.rollouts.list_rollouts(world.fleet)
        assert {each.slot: each.new_instance for each in world.catalog.rollouts.slots(rollout.id)} == after
        check_census(ground)

    def test_a_bad_one_is_halted_at_the_canary_and_the_old_ones_serve_on(self, ground: Ground) -> None:
        world, begun = ground.world, time.monotonic()
        before = world.instances()

        with Visitor(ground.port, (QUICK, QUICK, QUICK, SLOW), per_second=4) as visitor:
            with pytest.raises(StepFailed, match="verify failed"):
                world.refresh(BAD)
            seen = visitor.sent
            time.sleep(3)
            assert visitor.sent > seen

        print(f"halted after {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[BAD] == 0
        assert world.instances() == before
        current = world.catalog.rollouts.current(world.fleet)
        assert current is not None
        assert current.state == "halted"
        check_census(ground)

    def test_without_its_fleet_nothing_is_left_on_the_host(self, ground: Ground) -> None:
        ground.world.empty()

        found = ground.world.census()

        assert (found.domains, found.volumes) == ({}, frozenset())
        assert len(found.images) == 3
